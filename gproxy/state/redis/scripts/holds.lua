-- Answers every owner that holds something, each followed by its calls.

local answer = {}
for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  local calls = redis.call('ZRANGE', owner_name(owner), 0, -1)
  if #calls > 0 then
    table.insert(answer, owner)
    table.insert(answer, calls)
  end
end
return answer
