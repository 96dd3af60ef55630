-- Who of the caller's clients was in which room in the former incarnation: pairs of room and name.
allow_when_full()
if redis.call('HGET', META, 'inc') ~= INC or not READS[state(LIFE)] then return 'UNKNOWN' end
if redis.call('HGET', META, 'phase') == 'open' then return 'DONE' end
for at = 3, #ARGV, 2 do seat(ARGV[at], LIFE, ARGV[at + 1]) end
return 'OK'
