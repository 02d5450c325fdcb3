"""Autobahn's fuzzing client, telling what each case came to as soon as it is over. It runs on CPython 2.7.

    client.py cases PATTERN...      the cases that match, each on a line
    client.py fuzz SPECIFICATION    a line of JSON for each case that is over

Autobahn's own command writes its reports after the last case: if it is ended earlier, what it found is lost.
"""

from __future__ import print_function

import json
import sys

# Installs the reactor, and must come first.
import autobahntestsuite.choosereactor  # noqa: F401
from autobahntestsuite import fuzzing
from twisted.internet import reactor

TOLD = ("id", "result", "behavior", "behaviorClose", "remoteCloseCode", "remoteCloseReason", "rxFrameStats", "wasClean")


class Client(fuzzing.FuzzingClientFactory):
    def logCase(self, result):
        fuzzing.FuzzingClientFactory.logCase(self, result)
        self.createAgentCaseReportHTML(result["agent"], result["id"], self.outdir)
        self.createAgentCaseReportJSON(result["agent"], result["id"], self.outdir)
        print(json.dumps({name: result[name] for name in TOLD}))
        sys.stdout.flush()

    def createReports(self):
        self.createMasterReportHTML(self.outdir)
        self.createMasterReportJSON(self.outdir)


def cases(patterns):
    known = fuzzing.CaseSet(fuzzing.CaseSetname, fuzzing.CaseBasename, fuzzing.Cases, {}, {})
    chosen = known.parseSpecCases({"cases": patterns})
    strangers = [case for case in chosen if case not in known.CasesById]
    if strangers or not chosen:
        sys.exit("Autobahn has no case %s" % ", ".join(strangers or patterns))
    print("\n".join(chosen))


def fuzz(path):
    with open(path) as specification:
        Client(json.load(specification))
    reactor.run()


if __name__ == "__main__":
    if sys.argv[1] == "cases":
        cases(sys.argv[2:])
    else:
        fuzz(sys.argv[2])
