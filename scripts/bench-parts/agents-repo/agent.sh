#!/bin/sh
# What an agent does: agent.sh NAME ROUNDS. Each time it edits its module, builds all and tests all.
for round in $(seq "$2"); do
    sed -i "s/REVISION .*/REVISION $((round + 1))/" "src/mod_$1.c" || echo "edit failed"
    make -s all || echo "build failed"
    make -s test || echo "test failed"
    echo "round $round"
done
grep -q "REVISION $(($2 + 1))$" "src/mod_$1.c"
