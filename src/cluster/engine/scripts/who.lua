-- Who is here? ARGV[3] is the command's number, [4] the caller's number for the question, [5] how
-- many names to list if none is asked for, then the names. A held name counts as here.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local found = {}
if #ARGV == 5 then
    found = redis.call('ZRANGE', ORDER, 0, tonumber(ARGV[5]) - 1)
else
    local values = redis.call('HMGET', NAMES, unpack(ARGV, 6))
    for i, value in ipairs(values) do
        if value then found[#found + 1] = ARGV[5 + i] end
    end
end
append(LIFE, 'q', ARGV[4], 'c', redis.call('ZCARD', ORDER), 'n', table.concat(found, ' '))
return 'OK'
