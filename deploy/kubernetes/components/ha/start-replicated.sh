#!/bin/sh
# Starts one of several Redis servers: as the primary if the Sentinels call it that, else as a replica of the primary. A
# server that has data waits for a Sentinel's answer for up to a minute. Without one, as at the first start, FIRST is the
# primary. Beside the variables of start.sh:
#
#   NAME           this server's host name
#   FIRST          the host name of the first primary
#   SENTINELS      the host names of the Sentinels
#   PORT, SENTINEL_PORT
set -eu

# Sets `primary` to the first name that a Sentinel gives.
ask_sentinels() {
  for sentinel in $SENTINELS; do
    answer=$(
      REDISCLI_AUTH=$(cat "$SECRETS/password") timeout 3 \
        redis-cli -h "$sentinel" -p "$SENTINEL_PORT" SENTINEL get-master-addr-by-name ollama 2>/dev/null
    ) || continue
    primary=$(printf '%s\n' "$answer" | head -n 1)
    case $primary in
      "" | *[!A-Za-z0-9.-]*) primary= ;; # nothing, or an error in words
      *) return ;;
    esac
  done
}

primary=
ask_sentinels
tries=30
while [ -z "$primary" ] && [ -d "$DATA/appendonlydir" ] && [ "$tries" -gt 0 ]; do
  sleep 2
  tries=$((tries - 1))
  ask_sentinels
done

set -- --port "$PORT" --replica-announce-ip "$NAME" "$@"
if [ "${primary:=$FIRST}" != "$NAME" ]; then
  set -- --replicaof "$primary" "$PORT" "$@"
fi
echo "start-replicated.sh: the primary is $primary"
exec sh "$CONFIGURATION/start.sh" "$@"
