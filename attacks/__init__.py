"""Attacks on what the program promises: kills, failing disks, damage, races, changed data, fuzz.

    make attack                                       # two hours on two cores
    python -m attacks --minutes 20 kills faults       # some of it
    python -m attacks --short kills                   # the few seconds that the tests run
    python -m attacks.ranks --times 20                # of several processes one; needs TorchRec

Each attack is a list of cases, and each finished case is a line in the state file of the output
directory, so that a stopped run goes on where it was. The state belongs to the sources of the
package: after a change all cases are due again. `report.md` there is the table.

Linux only: `calls.c` is compiled and preloaded, and processes are forked from one that has imported
the package, so that a training takes a second and not five.
"""
