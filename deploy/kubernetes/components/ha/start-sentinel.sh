#!/bin/sh
# Starts one Sentinel. It keeps what it knows in DATA/sentinel.conf, which Sentinel itself rewrites; only the password is
# written again at each start.
#
#   DATA           a directory that outlives the pod
#   SECRETS        the directory with the file `password`
#   NAME           this Sentinel's host name
#   FIRST          the host name of the first primary
#   PORT, SENTINEL_PORT
set -eu

password=$(cat "$SECRETS/password")
: "${password:?start-sentinel.sh: the password in the Secret is empty}"
umask 077
conf=$DATA/sentinel.conf
if [ ! -s "$conf" ]; then
  # Two of three Sentinels must agree that the primary is down, after five seconds without an answer.
  cat >"$conf.new" <<END
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $NAME
sentinel monitor ollama $FIRST $PORT 2
sentinel down-after-milliseconds ollama 5000
sentinel failover-timeout ollama 30000
sentinel parallel-syncs ollama 1
END
else
  grep -Ev '^(requirepass|user default|sentinel (auth|sentinel)-pass) ' "$conf" >"$conf.new"
fi
printf 'requirepass %s\nsentinel auth-pass ollama %s\n' "$password" "$password" >>"$conf.new"
mv "$conf.new" "$conf"
exec redis-server "$conf" --sentinel --port "$SENTINEL_PORT" "$@"
