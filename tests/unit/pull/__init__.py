"""The program that pulls models."""
