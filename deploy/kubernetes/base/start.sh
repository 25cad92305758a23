#!/bin/sh
# Starts Redis with the password of the Secret, which Redis cannot read from a file by itself. Redis gets the arguments.
#
#   CONFIGURATION  the directory with redis.conf
#   SECRETS        the directory with the file `password`
#   DATA           the directory of the append-only file
#   RUN            an empty directory in memory, for redis.conf with the password
set -eu

password=$(cat "$SECRETS/password")
case $password in
  *[!A-Za-z0-9._-]*)
    echo "start.sh: the password in the Secret may have only letters, digits, dots, underscores and hyphens" >&2
    exit 1
    ;;
esac
if [ "${#password}" -lt 16 ]; then
  echo "start.sh: the password in the Secret is shorter than 16 characters" >&2
  exit 1
fi

umask 077
{
  cat "$CONFIGURATION/redis.conf"
  printf 'dir %s\nrequirepass %s\nmasterauth %s\n' "$DATA" "$password" "$password"
} >"$RUN/redis.conf"
exec redis-server "$RUN/redis.conf" "$@"
