"""Which tasks this process has, and how their statuses get to the store and to those who ask."""
