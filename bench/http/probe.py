#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sends tests/support/http_vectors.txt to any HTTP server and prints what it answered.

usage: probe.py ADDRESS PORT [-v]        framing sections only: a server that knows no Tandem route can be compared
       probe.py ADDRESS PORT --all [-v]  every section, exact statuses
"""
import os, re, socket, sys

ROUTING = ("Host", "routing")
HERE = os.path.dirname(os.path.abspath(__file__))


def unescape(text, host):
    text = text.replace("{H}", host)
    text = re.sub(r"\{(\d+)\*FIELD\}", lambda m: "X-F: v\\r\\n" * int(m[1]), text)
    text = re.sub(r"\{(\d+)\*(.)\}", lambda m: m[2] * int(m[1]), text)
    plain = {"r": 13, "n": 10, "t": 9, "0": 0, "\\": 92}
    out, i = bytearray(), 0
    while i < len(text):
        if text[i] != "\\":
            out += text[i].encode("latin-1")
            i += 1
        elif text[i + 1] == "x":
            out.append(int(text[i + 2:i + 4], 16))
            i += 4
        else:
            out.append(plain[text[i + 1]])
            i += 2
    return bytes(out)


def vectors():
    section = ""
    for line in open(os.path.join(HERE, "../../tests/support/http_vectors.txt")):
        line = line.rstrip("\n")
        if line.startswith("# ---"):
            section = line[5:].strip()
        if not line or line.startswith("#"):
            continue
        yield section, line[:28].strip(), line[28:37].strip(), line[37:]


def talk(address, port, data):
    s = socket.create_connection((address, port))
    s.settimeout(0.25)
    got, closed = b"", False
    try:
        s.sendall(data)
        while True:
            more = s.recv(65536)
            if not more:
                closed = True
                break
            got += more
    except socket.timeout:
        pass
    except OSError:
        closed = True
    s.close()
    return got, closed


def statuses(got):
    found, at = [], 0
    while True:
        m = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r]*\r\n((?:[^\r]+\r\n)*)\r\n").match(got, at)
        if not m:
            return found
        found.append(m[1].decode())
        at = m.end()
        length = re.search(rb"(?im)^content-length: *(\d+)\r$", m[2])
        if length:
            at += int(length[1])
            if not got.startswith(b"HTTP/1.", at) and at < len(got):
                at = m.end()  # a HEAD answer: the length names a body that was not sent


def main():
    address, port = sys.argv[1], int(sys.argv[2])
    every, verbose = "--all" in sys.argv, "-v" in sys.argv
    wrong, total, took, refused_good = [], 0, [], []
    for section, name, want, text in vectors():
        if not every and (section.startswith(ROUTING) or name.startswith("target-d") or name == "target-escaped"):
            continue
        total += 1
        got, closed = talk(address, port, unescape(text, "%s:%d" % (address, port)))
        seen = statuses(got)
        shown = ",".join(seen) + ("!" if closed else "") or "-"
        good = [s for s in seen if s[0] == "2"]
        bad_expected = want.endswith("!") and want[0] in "45"
        if bad_expected and good:
            took.append(name)
        if want[0] == "2" and not good:
            refused_good.append(name)
        if shown != want:
            wrong.append(name)
        if verbose or (every and shown != want):
            print("%-28s want %-9s got %s" % (name, want, shown))
    print("vectors=%d exact=%d accepted_though_invalid=%d refused_though_valid=%d" % (
        total, total - len(wrong), len(took), len(refused_good)))
    if took:
        print("accepted: " + " ".join(took))
    if refused_good:
        print("refused: " + " ".join(refused_good))
    return 1 if every and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
