-- Creates a channel with declared limits, or restarts one that has ended. Makes the mirrors resync.
-- KEYS  1 state  2 log
-- ARGV  1 epoch for a channel that ended or lost its data  2 run marker  3 max_messages  4 max_data_bytes
--       5 max_message_bytes  6 lifespan in ms  7 max_connections  8 TTL of an unused channel in ms  9 configured lifespan in ms  10 pub/sub name
--       11 command that publishes
-- Returns "new" | "again" | "exists".
local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'ended', 'created', 'lifespan', 'declared')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local publish, run = ARGV[11], ARGV[2]
if string.find(run, '^cluster') then run = run .. redis.call('CLUSTER', 'MYID') end
local declared = table.concat({ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]}, ' ')
local lifespan, configured = tonumber(state[5] or 0), tonumber(ARGV[9])
if lifespan == 0 or (configured ~= 0 and configured < lifespan) then lifespan = configured end
local has_ended = state[3] or (state[4] and lifespan ~= 0 and now - state[4] >= lifespan)
local epoch = state[1]
if not epoch or state[2] ~= run or has_ended then
  epoch = state[1] and ARGV[1] or first_epoch(now, ARGV[8], run)
  redis.call('DEL', KEYS[1], KEYS[2], key_of('wait'))
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'offset', 0, 'bytes', 0, 'created', string.format('%.0f', now))
elseif state[6] then
  return state[6] == declared and 'again' or 'exists'
end
redis.call('HSET', KEYS[1], 'declared', declared, 'max_messages', ARGV[3], 'max_data_bytes', ARGV[4],
  'max_message_bytes', ARGV[5], 'lifespan', ARGV[6], 'max_connections', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call(publish, ARGV[10], 'l ' .. epoch)
return 'new'
