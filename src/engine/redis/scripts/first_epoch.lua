-- For scripts whose KEYS[1] is the state of a channel. Its keys `wait` and `closed` are in the same slot; they are not in
-- KEYS because only the first publication needs them.
local function key_of(kind)
  return string.sub(KEYS[1], 1, -string.len('state') - 1) .. kind
end

-- The epoch of a name without a channel, the same on all nodes although nothing is stored for it. It must not be one that
-- the name had before:
-- - a channel that expired existed for the TTL of an unused one, so the period is another one;
-- - a channel that was closed left the time of that;
-- - a server that lost its data has another run marker, or without an append-only file another id.
-- Subscribers that wait since an earlier period have a reservation.
local function first_epoch(now, idle, run)
  local waiting = redis.call('GET', key_of('wait'))
  if waiting then return waiting end
  local name = redis.sha1hex(KEYS[1])
  local keeps_data = string.find(redis.call('INFO', 'persistence'), 'aof_enabled:1', 1, true)
  local server = keeps_data and '' or string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
  -- The periods of names begin at different times.
  local period = math.floor((now + tonumber(string.sub(name, 1, 8), 16)) / idle)
  local closed = redis.call('GET', key_of('closed')) or ''
  return string.sub(redis.sha1hex(table.concat({run, server, idle, period, closed, name}, ' ')), 1, 8)
end
