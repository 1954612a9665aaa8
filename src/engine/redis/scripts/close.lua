-- Ends and deletes a channel, and publishes the end to all nodes.
-- KEYS  1 state  2 log  3 reserved slots   ARGV  1 pub/sub name  2 command that publishes
-- Returns 1, or 0 if there was no channel.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call(ARGV[2], ARGV[1], 'e ' .. epoch .. ' channel_closed')
return 1
