#!/bin/sh
# Starts one of several Redis servers: as the primary if the Sentinels call it that, else as a replica of theirs. Without
# an answer of a Sentinel, as at the first start, FIRST is the primary. Beside the variables of start.sh:
#
#   NAME           this server's host name
#   FIRST          the host name of the first primary
#   SENTINELS      the host names of the Sentinels
#   PORT, SENTINEL_PORT
set -eu

primary=
for sentinel in $SENTINELS; do
  answer=$(
    REDISCLI_AUTH=$(cat "$SECRETS/password") timeout 3 \
      redis-cli -h "$sentinel" -p "$SENTINEL_PORT" SENTINEL get-master-addr-by-name ollama 2>/dev/null
  ) || continue
  name=$(printf '%s\n' "$answer" | head -n 1)
  case $name in
    *[!A-Za-z0-9.-]*) ;; # an error in words
    ?*) primary=$name && break ;;
  esac
done

set -- --port "$PORT" --replica-announce-ip "$NAME" "$@"
if [ "${primary:=$FIRST}" != "$NAME" ]; then
  set -- --replicaof "$primary" "$PORT" "$@"
fi
echo "start-replicated.sh: the primary is $primary"
exec sh "$CONFIGURATION/start.sh" "$@"
