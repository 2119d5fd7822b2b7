#!/bin/sh
# Counts how often each name is in a JSON array of names:
#   echo '["Ada","Grace","Ada"]' | ./author-stats.sh execute count
#   {"authors":[{"name":"Ada","commits":2},{"name":"Grace","commits":1}],"total":3}
# A name stays the JSON text that it is, so no escape is ever decoded.
export LC_ALL=C
awk=/usr/bin/awk

case "$1 $2" in
'info ')
    echo '{"id":"author-stats","version":"0.1.0","phases":["count"]}'
    exit 0
    ;;
'validate ')
    [ -x "$awk" ] && exit 0
    echo "$awk is not there" >&2
    exit 69
    ;;
'execute count') ;;
*)
    echo "usage: $0 execute count | validate | info" >&2
    exit 2
    ;;
esac

# Records end at a quote, so they are in turn what stands between names and
# pieces of a name; a piece that ends in an odd number of backslashes ends at a
# quote that is part of the name.
exec "$awk" '
function refuse() {
    print "the input must be a JSON array of texts" > "/dev/stderr"
    refused = 1
    exit 65
}
# Whether a stands before b: more commits, then the smaller bytes.
function before(a, b) {
    return commits[a] != commits[b] ? commits[a] > commits[b] : (a "") < (b "")
}
# Restores the heap of names below start, worst first.
function sift(start, end,    child, held) {
    held = names[start]
    while ((child = 2 * start) <= end) {
        if (child < end && before(names[child], names[child + 1])) child++
        if (!before(held, names[child])) break
        names[start] = names[child]
        start = child
    }
    names[start] = held
}
function blank(text) {
    gsub(/[ \t\r\n]/, "", text)
    return text
}
BEGIN { RS = "\"" }
inside {
    name = name $0
    match($0, /\\*$/)
    if (RLENGTH % 2) {
        name = name "\""
        next
    }
    if (!(name in commits)) names[++count] = name
    commits[name]++
    total++
    inside = 0
    next
}
{
    between = blank($0)
    if (closed || between != (total ? "," : "[")) {
        if (closed || between != (total ? "]" : "[]")) refuse()
        closed = 1
        next
    }
    inside = 1
    name = ""
}
END {
    if (refused) exit 65
    if (inside || !closed) refuse()
    for (i = int(count / 2); i >= 1; i--) sift(i, count)
    for (i = count; i > 1; i--) {
        held = names[1]
        names[1] = names[i]
        names[i] = held
        sift(1, i - 1)
    }
    printf "{\"authors\":["
    for (i = 1; i <= count; i++)
        printf "%s{\"name\":\"%s\",\"commits\":%d}", (i > 1 ? "," : ""), names[i], commits[names[i]]
    printf "],\"total\":%d}\n", total
}
'
