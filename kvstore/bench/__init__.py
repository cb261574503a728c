"""Loads, what they measured, and what to make of it: `kvstore bench`, and the project's own benchmarks.

keys.py, workload.py    which operation comes next: YCSB A to F. Pure
drive.py                when it is sent: open and closed loop
http.py, client_lanes.py   how: plain HTTP, or the client library
recording.py            what came of it: HDR histograms, errors
load.py                 all of these as one value, run in one process or several
result.py               measurements as JSON, with the machine and the versions
compare.py              two results: what got worse
report.py, plots.py     tables, PNG and one page of HTML
"""
