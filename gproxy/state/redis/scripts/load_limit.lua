-- ARGV[2]: a JSON document.

local asked = cjson.decode(ARGV[2])
local key = asked.limit
if redis.call('EXISTS', limit_name(key)) == 1 then return end

local limit = { hour = math.floor(at / HOUR), requests = {}, tokens = {} }
advance(limit.requests, 0)
advance(limit.tokens, 0)
for _, counted in ipairs(asked.hours) do
  local hour, requests, tokens = unpack(counted)
  count(limit, 'requests', hour, requests)
  count(limit, 'tokens', hour, tokens)
end
write_limit(key, limit)
for index, moment in ipairs(asked.recent) do strike(key, moment, 'booked:' .. index) end
for _, running in ipairs(asked.running) do
  local call, owner, hour, tokens = unpack(running)
  hold_limit(call, owner, key, hour, tokens)
  redis.call('ZADD', LEASES, 'NX', whole(at), owner)
end
