-- ARGV[2]: a JSON document.

local document = cjson.decode(ARGV[2])
local key = document.limit
if redis.call('EXISTS', limit_name(key)) == 1 then return end

local limit = { hour = math.floor(at / HOUR), requests = {}, tokens = {} }
advance(limit.requests, 0)
advance(limit.tokens, 0)
for _, counted in ipairs(document.hours) do
  local hour, requests, tokens = unpack(counted)
  add_to_hour(limit, 'requests', hour, requests)
  add_to_hour(limit, 'tokens', hour, tokens)
end
write_limit(key, limit)
for index, moment in ipairs(document.recent) do add_moment(key, moment, 'booked:' .. index) end
for _, running in ipairs(document.running) do
  local call, owner, hour, tokens = unpack(running)
  reserve_limit(call, owner, key, hour, tokens)
  redis.call('ZADD', LEASES, 'NX', integer(at), owner)
end
