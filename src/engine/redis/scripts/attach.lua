-- Returns the state of a channel for a mirror. Writes nothing if there is none.
-- KEYS  1 state  2 log  3 watch (hash node -> expiry)
-- ARGV  1 epoch for a channel that lost its data  2 run marker  3 lifespan in ms (0: no limit)
--       4 TTL of an unused channel in ms  5 pub/sub name  6 command that publishes
--       7 epoch and 8 offset of the mirror; a lower offset in the same epoch means that Redis lost publications
-- Returns {epoch, offset, bytes, age in ms, ended, declared, time in ms, watching nodes separated by blanks, 1 if there is
-- a channel}; `ended`, `declared` and the nodes may be empty.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local publish, run = ARGV[6], ARGV[2]
if string.find(run, '^cluster') then run = run .. redis.call('CLUSTER', 'MYID') end
local function integer(number) return string.format('%.0f', number) end

local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'offset', 'bytes', 'created', 'ended', 'declared', 'lifespan')
local epoch, offset, created, ended = state[1], tonumber(state[3] or 0), tonumber(state[5] or now), state[6]
if not epoch then
  -- If the mirror saw publications, Redis lost them without a restart, and the epoch must not return.
  if first_epoch(now, ARGV[4], run) == ARGV[7] and tonumber(ARGV[8]) > 0 then
    redis.call('SET', key_of('closed'), time[1] .. time[2], 'PX', ARGV[4])
    redis.call('DEL', key_of('wait'))
  end
elseif state[2] ~= run or (epoch == ARGV[7] and offset < tonumber(ARGV[8])) then
  epoch, offset = ARGV[1], 0
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'offset', 0, 'created', integer(created))
end
local lifespan, declared = tonumber(ARGV[3]), tonumber(state[8] or 0)
if lifespan == 0 or (declared ~= 0 and declared < lifespan) then lifespan = declared end
if epoch and not ended and lifespan ~= 0 and now - created >= lifespan then
  ended = 'lifespan_expired'
  redis.call('HSET', KEYS[1], 'ended', ended)
  redis.call('DEL', KEYS[2])
  redis.call(publish, ARGV[5], 'e ' .. epoch .. ' ' .. ended)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local watch, nodes = redis.call('HGETALL', KEYS[3]), {}
for at = 1, #watch, 2 do
  if tonumber(watch[at + 1]) > now then nodes[#nodes + 1] = watch[at] end
end
nodes = table.concat(nodes, ' ')
local exists = epoch and '1' or '0'
epoch = epoch or first_epoch(now, ARGV[4], run)
return {epoch, integer(offset), state[4] or '0', integer(now - created), ended or '', state[7] or '', integer(now), nodes, exists}
