#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The starter model's data agree with each other: catalogue, labels, generator, smoke set."""
import json
import os
import random
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STARTER = os.path.join(ROOT, "models", "starter")
sys.path.insert(0, STARTER)
sys.dont_write_bytecode = True
from common import Catalogue, NOT_FOR_ME, labels, read_lines, split  # noqa: E402
from data import Augment, own_row  # noqa: E402
from generate import Generator  # noqa: E402

CAT = Catalogue()


class StarterData(unittest.TestCase):
    def test_catalogue_has_the_form_of_a_request(self):
        for t in CAT.tools:
            self.assertEqual(t["type"], "function")
            f = t["function"]
            self.assertRegex(f["name"], r"^[a-z_]{1,64}$")
            p = f["parameters"]
            self.assertEqual(p["type"], "object")
            self.assertLessEqual(set(p["required"]), set(p["properties"]))
            if "action" in p["properties"]:
                self.assertEqual(next(iter(p["properties"])), "action")
                self.assertIn("action", p["required"])
        self.assertEqual(len(CAT.names), len({t["function"]["name"] for t in CAT.tools}))

    def test_labels_name_calls_and_arguments_that_exist(self):
        for name, lab in labels().items():
            self.assertLessEqual(set(lab["calls"]), set(CAT.calls), name)
            for key in lab["slots"]:
                tool, arg = key.split(".")
                self.assertIn(arg, CAT.args[tool], key)

    def test_every_call_has_patterns_and_its_values_stand_in_the_text(self):
        gen, rng = Generator(CAT), random.Random(3)
        for call in CAT.calls + [NOT_FOR_ME]:
            for _ in range(20):
                text, spans = gen.sample(call, rng)
                self.assertTrue(text.strip(), call)
                self.assertLess(len(text), 240, call)
                for arg, (s, e) in spans.items():
                    self.assertTrue(text[s:e].strip(), (call, arg, text))

    def test_changed_utterances_still_say_their_values(self):
        gen, rng = Generator(CAT), random.Random(11)
        rows = [own_row(gen, call, rng) for call in CAT.calls for _ in range(6)]
        change = Augment(rows, ["alpha", "bravo", "delta", "river"], rng, gen.lists)
        changed = 0
        for row in rows:
            text, values = change(row, swap=0.5, pseudo=0.5, noise=0.2)
            self.assertEqual(set(values), set(row.spans))
            changed += text != row.text
            for value in values.values():
                self.assertTrue(value and value in text, (text, values))
        self.assertGreater(changed, len(rows) / 2)

    def test_the_generator_repeats_itself_from_a_seed(self):
        a, b = (Generator(CAT).sample("weather", random.Random(5)) for _ in range(2))
        self.assertEqual(a, b)

    def test_the_split_does_not_move(self):
        # The numbers published for the model hold for this split only.
        self.assertEqual([i for i in range(1, 41) if split("utterance %d" % i) == "heldout"], [15, 19, 23, 34, 39])
        self.assertEqual([i for i in range(1, 61) if split("utterance %d" % i) == "dev"], [9, 53])
        self.assertEqual(split("Set  a TIMER"), split("set a timer"))

    def test_smoke_set_speaks_the_catalogue(self):
        for line in read_lines(os.path.join(STARTER, "smoke.jsonl")):
            r = json.loads(line)
            if r["intent"] == NOT_FOR_ME:
                self.assertEqual(r["slots"], {})
                continue
            self.assertIn(r["intent"], CAT.calls)
            for arg, value in r["slots"].items():
                self.assertIn(arg, CAT.args[r["intent"].partition(".")[0]])
                self.assertIn(value, r["text"])


if __name__ == "__main__":
    unittest.main()
