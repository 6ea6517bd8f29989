-- Returns every owner that has reservations, each followed by its calls.

local reply = {}
for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  local calls = redis.call('ZRANGE', owner_name(owner), 0, -1)
  if #calls > 0 then
    table.insert(reply, owner)
    table.insert(reply, calls)
  end
end
return reply
