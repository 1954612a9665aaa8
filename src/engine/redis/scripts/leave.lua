-- Removes what a node has reserved for the subscribers of a channel.
-- KEYS  1 reserved slots (hash node -> "count expiry")  2 reserved epoch   ARGV  1 node
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
