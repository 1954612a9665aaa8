-- Ends and deletes a channel, and publishes the end to all nodes. Also ends the subscriptions of a waiting name.
-- KEYS  1 state  2 log  3 reserved slots  4 time of the last close
-- ARGV  1 pub/sub name  2 command that publishes  3 TTL of an unused channel in ms
-- Returns 1, or 0 if there was no channel and no reservation.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  redis.call(ARGV[2], ARGV[1], 'e - channel_closed')
  return redis.call('DEL', KEYS[3])
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
local time = redis.call('TIME')
redis.call('SET', KEYS[4], time[1] .. time[2], 'PX', ARGV[3])
redis.call(ARGV[2], ARGV[1], 'e ' .. epoch .. ' channel_closed')
return 1
