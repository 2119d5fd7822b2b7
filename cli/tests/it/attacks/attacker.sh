#!/bin/sh
# Says what of all it tries has worked.
case "$1" in
validate) exit 0 ;;
info) echo '{"id":"attacker","version":"0.1.0","phases":["attack"]}'; exit 0 ;;
esac

worked=
try() {
    if (eval "$2") > /dev/null 2>&1; then worked="$worked${worked:+,}\"$1\""; fi
}

try granted_file 'read -r x < @GRANTED@/file'
try granted_program '/usr/bin/cat @GRANTED@/file'

try read 'read -r x < @SECRET@/file'
try cat '/usr/bin/cat @SECRET@/file'
try dotdot '/usr/bin/cat @GRANTED@/../secret/file'
try beside '/usr/bin/cat @GRANTED@-evil/file'
try link '/usr/bin/cat @GRANTED@/link'
try self_root '/usr/bin/cat /proc/self/root@SECRET@/file'
try first_root '/usr/bin/cat /proc/1/root@SECRET@/file'
try victim_root '/usr/bin/cat /proc/@VICTIM@/root@SECRET@/file'
try victim_cwd '/usr/bin/cat /proc/@VICTIM@/cwd/file'
try victim_environment '/usr/bin/cat /proc/@VICTIM@/environ'
try victim_memory 'read -r x < /proc/@VICTIM@/maps'
try signal 'kill -0 @VICTIM@'
try write 'echo x >> @SECRET@/file'
try create 'echo x > @SECRET@/new'
try write_what_is_read 'echo x >> @GRANTED@/file'
try enter 'cd @SECRET@'
try home 'cd @HOME@'
try grants 'read -r x < @HOME@/grants.toml'
try passwords 'read -r x < /etc/passwd'
try other_program '/usr/bin/id'
try loader '/lib64/ld-linux-x86-64.so.2 /usr/bin/id'
try host_secret 'test -n "$HOST_SECRET"'
try host_path_in_environment 'env | /usr/bin/cat | grep @SECRET@'
echo "[$worked]"
