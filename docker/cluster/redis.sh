#!/bin/sh
# Starts Redis with one user, `gateway`, with only the rights that the gateways need. The password stays in its file:
# Redis receives its hash.
set -eu
password_file=${REDIS_PASSWORD_FILE:-/run/secrets/redis-password}
data=${REDIS_DATA:-/data}
config=${REDIS_CONFIG:-/etc/redis/redis.conf}

hash=$(tr -d '\r\n' <"$password_file" | sha256sum | cut -d ' ' -f 1)
umask 077
cat >"$data/users.acl" <<EOT
user default off ~* &* +@all
user gateway on #$hash ~lastmile:* resetchannels &lastmile:* +evalsha +script|load +hmget +hget +hset +hsetnx +hdel +hgetall +hkeys +set +get +getdel +del +exists +incrby +pexpire +pttl +xadd +xrange +publish +spublish +subscribe +unsubscribe +ssubscribe +sunsubscribe +ping +info +time
EOT
exec redis-server "$config" --dir "$data" --aclfile "$data/users.acl" "$@"
