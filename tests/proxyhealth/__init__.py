"""The bugs and gaps of Coder's proxyhealth ticker, and the test that shows our right behaviour.

Source: coder-interfaces, section 3.7. Each test is in test_p01_to_p24.py and bears the number.

    P1   one URL that cannot be built aborts the run      that proxy alone is unhealthy
    P2   a nil result is dereferenced after P1            every proxy has a result
    P3   an aborted run leaves records behind             a broken round publishes nothing of its own
    P4   concurrent runs publish a mix                    single flight; one commit a round
    P5   a cancelled run records "unreachable"            a cancelled run publishes nothing
    P6   a slow old run overwrites a newer one            runs are numbered, older ones dropped
    P7   any decodable 200 counts as healthy              JSON type, an object, one of both keys
    P8   a partly decoded report keeps fields             a report that cannot be read leaves none
    P9   time out in the body reads "not a proxy"         unreachable, with the reason timeout
    P10  redirects are followed silently                  unhealthy, and the Location is told
    P11  a reused connection keeps an old backend         a fresh lookup and connection each time
    P12  a body without limit                             read up to 1 MiB
    P13  one stamp for all, taken from the tick           monotonic durations, one stamp a proxy
    P14  failed runs look like fast successes             failures by reason, time of last success
    P15  the duration is always about zero                the whole round is observed
    P16  no name, no warnings in the metrics              info series, warning count, status
    P17  a failed list freezes values for ever            its age is shown; five intervals, then gone
    P18  the primary is made up and always ok             it is no proxy here
    P19  a stopped proxy is "unreachable"                 XWP03, from the rows of its replicas
    P20  unregistered and unknown have no message         XWP01 has one
    P21  a slow primary makes proxies look dead           XWP04: /healthz answers, the report hangs
    P22  thirty dead proxies do not fit into a run        all side by side, a deadline each
    P23  a 500 with a JSON string cannot be decoded       the string is the message
    P24  no entry yet is "unknown" of the year 1          no data, no series
"""
