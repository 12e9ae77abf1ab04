# SPDX-License-Identifier: Apache-2.0
"""Rows for training and evaluation: the public sets in the catalogue's terms, and the generator's."""
import json
import random
import re

from common import NOT_FOR_ME, load_public, labels

LISTS = (("shopping", "shopping_list"), ("grocer", "shopping_list"), ("to do", "todo_list"), ("to-do", "todo_list"),
         ("todo", "todo_list"), ("task", "todo_list"))
LIGHT = re.compile(r"\b(light|lights|lamp|lamps|lighting)\b")
REMOVE = re.compile(r"\b(remove|delete|take|erase|cross|off|drop|cancel|get rid|scratch|rid)\b")
CLEAR = re.compile(r"\b(clear|empty|everything|entire|whole|all)\b")


def call_for(name, label, text):
    """The call of the catalogue that a row of a public set asks for, where its label leaves a choice."""
    t = text.lower()

    def has(*words):
        return any(re.search(r"\b" + w + r"\b", t) for w in words)

    if label in ("shopping_list_update", "todo_list_update"):
        kind = label[:-7]
        if REMOVE.search(t):
            return kind + ".remove"
        return kind + (".clear" if CLEAR.search(t) and not has("add", "put") else ".add")
    if label == "smart_home":
        if LIGHT.search(t):
            if has("off", "out"):
                return "light.off"
            if has("dim", "lower", "dimmer", "darker"):
                return "light.dimmer"
            if has("brighter", "brighten", "raise", "increase", "brightness"):
                return "light.brighter"
            if has("blue", "red", "green", "color", "colour", "pink", "purple", "yellow"):
                return "light.color"
            return "light.on"
        if has("thermostat", "temperature", "degrees", "heat", "oven", "warmer", "colder", "cooler", "temp", r"\d+"):
            return "thermostat.query" if has("what", "how") else "thermostat.set"
        if has("off"):
            return "appliance.off"
        return "appliance.on" if has("on") else "appliance.start"
    if label == "change_volume":
        if has("up", "raise", "increase", "louder", "higher", "loud"):
            return "volume.up"
        if has("down", "lower", "decrease", "quieter", "softer", "reduce"):
            return "volume.down"
        return "volume.mute" if has("mute") else "volume.set"
    if label == "calendar_update":
        return "calendar.remove" if REMOVE.search(t) or has("clear") else "calendar.add"
    if label == "timer":
        if has("cancel", "stop", "end", "off please"):
            return "timer.cancel"
        return "timer.check" if has("left", "check", "remaining") else "timer.set"
    if label == "alarm":
        return "alarm.remove" if has("cancel", "remove", "delete") else "alarm.set"
    if label == "reminder_update":
        return "reminder.set"
    if name != "slurp":
        return None
    if label.startswith("calendar_") and has("remind", "reminder", "reminders"):
        return {"set": "reminder.set", "query": "reminder.list", "remove": "reminder.remove"}[label[9:]]
    if label == "calendar_set" or label == "calendar_query" or label == "calendar_remove":
        return {"set": "calendar.add", "query": "calendar.query", "remove": "calendar.remove"}[label[9:]]
    if label == "datetime_query":
        if "time zone" in t or "timezone" in t:
            return "clock.zone"
        return "clock.date" if has("date", "day", "month", "year", "days", "week") else "clock.time"
    if label.startswith("lists_"):
        tool = next((v for k, v in LISTS if k in t), "named_list")
        if label == "lists_query":
            return tool + ".show"
        if label == "lists_remove":
            return tool + ".remove"
        if tool == "named_list" and not has("add", "put", "include", "update"):
            return "named_list.create"
        return tool + ".add"
    if label == "recommendation_locations":
        return "restaurant.suggest" if has("restaurant", "restaurants", "eat") else "recommend.places"
    if label == "transport_query":
        if has("direction", "directions", "navigate", "route") or "how do i get" in t or "way to" in t:
            return "transport.directions"
        return "transport.timetable"
    if label == "cooking_recipe":
        if "how long" in t:
            return "cooking.cook_time"
        return "cooking.ingredients" if has("ingredient", "ingredients") else "cooking.recipe"
    if label == "music_settings":
        return "player.next" if has("skip", "next") else "player.settings"
    return None


# Calls of SLURP whose slots say all that the call's arguments would.
SLURP_FULL = {"alarm.set", "alarm.list", "alarm.remove", "calendar.add", "calendar.query", "calendar.remove",
              "clock.time", "clock.date", "light.on", "light.off", "light.dimmer", "light.brighter", "light.color",
              "weather", "play_music", "news", "stock_price", "word.define", "transport.taxi", "transport.timetable",
              "transport.ticket", "transport.traffic", "appliance.clean", "appliance.coffee"}


class Row:
    """text, call, spans {arg: (start, end)} in text; full: the arguments are known, not only the call."""
    __slots__ = ("text", "call", "spans", "full", "source", "label", "id", "slots")

    def __init__(self, text, call, spans, full, source, label=None, id=None, slots=None):
        self.text, self.call, self.spans, self.full = text, call, spans, full
        self.source, self.label, self.id, self.slots = source, label, id, slots


def public_rows(cat, name, part):
    lab = labels()[name]
    inverse = {}
    for call, label in lab["calls"].items():
        inverse.setdefault(label, call)
    for other, label in lab.get("same_as", {}).items():
        inverse[other] = NOT_FOR_ME  # the label's rows teach declining, also where calls map to it
    inverse[lab["not_for_me"]] = NOT_FOR_ME
    rows = []
    for r in load_public(name):
        if r["part"] != part:
            continue
        label, text = r["label"], r["text"]
        call = call_for(name, label, text) or inverse.get(label)
        if call is None:
            raise ValueError("no call for label %s of %s" % (label, name))
        spans, full = {}, call == NOT_FOR_ME
        if call != NOT_FOR_ME and (name == "snips" or (name == "slurp" and call in SLURP_FULL)):
            full = True
            tool = call.partition(".")[0]
            arg_of = {}
            for key, slot in lab["slots"].items():
                t, a = key.split(".")
                if t == tool:
                    arg_of.setdefault(slot, a)
            at = 0
            for s in r["slots"]:
                a = arg_of.get(s["slot"])
                i = text.find(s["text"], at)
                if i < 0:
                    i = text.find(s["text"])
                if i < 0 or a is None:
                    full = full and name == "snips"
                    continue
                at = i + len(s["text"])
                if a in spans:
                    full = full and name == "snips"
                    continue
                spans[a] = (i, at)
        if not full:
            spans = {}
        rows.append(Row(text, call, spans, full, name, label, r["id"], r.get("slots", [])))
    return rows


# Arguments whose value is a name that nobody can know beforehand.
OPEN_ARGS = {"title", "film", "track", "album", "entity", "playlist", "name", "artist", "city", "poi", "venue",
             "restaurant", "company", "word", "item", "person", "list", "text", "place", "from", "topic", "event",
             "label", "subject", "room", "device", "food", "dish", "service"}


# Of these, what kind of name it is can only be known from the name: random words would teach to guess.
KNOWN_ARGS = {"artist", "track", "album", "service", "room", "device", "food", "dish", "company", "topic"}
# Arguments whose values change places among the utterances that have them.
SWAP_ARGS = {"state", "country", "cuisine", "sort", "party", "people", "when", "condition", "genre", "year", "near",
             "feature", "owner", "unit", "language", "date", "time", "duration"}
GAZETTEER = {"city": ("city",), "state": ("state",), "country": ("country",), "cuisine": ("cuisine",)}


class Augment:
    """Changes a row without changing what it asks for."""

    def __init__(self, rows, words, rng, lists=None):
        self.rng, self.words = rng, words
        self.pool = {}
        for r in rows:
            for a, (s, e) in r.spans.items():
                self.pool.setdefault(self.kind(r.call, a), []).append(r.text[s:e])
        for a, names in GAZETTEER.items():
            if lists and ("place", a) in self.pool:
                self.pool["place", a] += [v[0] for n in names for v in lists[n] if len(v) == 1 and isinstance(v[0], str)]

    def kind(self, call, arg):
        """Where an argument's values come from: places mean the same to the weather and to a restaurant."""
        tool = call.partition(".")[0]
        if tool in ("weather", "book_restaurant") and arg in ("city", "state", "country", "near", "cuisine"):
            tool = "place"
        return tool, arg

    def number(self):
        """Digits with marks between them, where copying easily loses its place."""
        r = self.rng.randint
        return self.rng.choice((
            lambda: "%02d:%02d" % (r(0, 23), r(0, 59)), lambda: "%d" % r(1900, 2050),
            lambda: "%d.%d" % (r(0, 99), r(0, 9)), lambda: "%d%d" % (r(0, 9) * 11, r(0, 9)),
            lambda: "%d:%02d %s" % (r(1, 12), r(0, 59), self.rng.choice(("am", "pm", "AM"))),
            lambda: "%02d:%02d:%02d" % (r(0, 23), r(0, 59), r(0, 59)), lambda: "%d/%d/%d" % (r(1, 12), r(1, 28), r(1990, 2040)),
            lambda: "%d %d" % (r(0, 99), r(0, 99)), lambda: "%d,%03d" % (r(1, 99), r(0, 999))))()

    def when(self):
        rng, n = self.rng, self.number
        months = "january february march april may june july august september october november december jan. feb. aug. sept. oct. nov. dec.".split()
        m = rng.choice(months)
        return rng.choice((
            lambda: "%02d:%02d:%02d %s" % (rng.randint(0, 12), rng.randint(0, 59), rng.randint(0, 59), rng.choice(("am", "pm", "AM"))),
            lambda: "%s %d, %d" % (m.capitalize() if rng.random() < .6 else m, rng.randint(1, 30), rng.randint(2018, 2040)),
            lambda: "%s the %d%s" % (m, rng.randint(4, 20), "th"), lambda: "%d/%d/%d" % (rng.randint(1, 12), rng.randint(1, 28), rng.randint(2018, 2040)),
            lambda: "%s %d" % (m, rng.randint(1, 30)), lambda: "%d %s from now" % (rng.randint(1, 60), rng.choice(("minutes", "hours", "seconds", "days", "weeks"))),
            lambda: "%d:%02d" % (rng.randint(1, 12), rng.randint(0, 59))))()

    def word(self):
        rng, k = self.rng, self.rng.random()
        if k < 0.72:
            return rng.choice(self.words)
        if k < 0.86:
            return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 7)))
        return rng.choice(self.words)[:rng.randint(2, 5)] + rng.choice(self.words)[-rng.randint(1, 4):]

    def pseudo(self):
        """Words that mean nothing; some come twice, for what follows a repeated word is the hardest to copy."""
        rng = self.rng
        out = []
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5))):
            k = rng.random()
            if k > 0.94:
                out.append(self.number())
            elif out and k > 0.82:
                out.append(rng.choice(out))
            elif k > 0.80:
                w = self.word()
                out.append(rng.choice((w + "-" + w, w[:1] + "-" + w, w + "-" + self.word(), w[:2] * rng.randint(2, 3), w + w)))
            else:
                out.append(self.word())
        if rng.random() < 0.4:
            out = [w[:1].upper() + w[1:] for w in out]
        if rng.random() < 0.06:
            out.append(str(rng.randint(0, 2500)))
        joint = " "
        if len(out) > 1 and rng.random() < 0.1:
            joint = rng.choice((", ", ", ", " - ", "... ", ": ", " & ", "; ", " / ", ". "))
        text = joint.join(out)
        if rng.random() < 0.02:
            text += rng.choice(("!", "...", "?", "."))
        return text

    def parts(self, row):
        cuts = sorted((s, e, a) for a, (s, e) in row.spans.items())
        at, out = 0, []
        for s, e, a in cuts:
            if s < at:
                continue
            out += [(row.text[at:s], None), (row.text[s:e], a)]
            at = e
        out.append((row.text[at:], None))
        return out

    def value(self, row, arg, text, pseudo):
        """Another value for an argument, or the same."""
        rng = self.rng
        if arg in OPEN_ARGS and rng.random() < 0.75:
            if arg not in KNOWN_ARGS and rng.random() < pseudo:
                return self.pseudo()
        elif arg == "when" and rng.random() < 0.15 and not text[:3].lower() in ("in ", "on ", "at ", "for"):
            return self.when()
        elif arg not in SWAP_ARGS or rng.random() < 0.5:
            return text
        other = rng.choice(self.pool.get(self.kind(row.call, arg), [text]))
        if arg == "when" and (other.split(" ")[0].lower() in ("in", "on", "at", "for")) != \
                (text.split(" ")[0].lower() in ("in", "on", "at", "for")):
            return text
        return other

    def __call__(self, row, swap=0.4, pseudo=0.12, noise=0.06):
        rng = self.rng
        parts = self.parts(row)
        if row.spans and rng.random() < swap + pseudo:
            change = []
            for t, a in parts:
                change.append((t if a is None else self.value(row, a, t, pseudo / (swap + pseudo)), a))
            parts = change
        if rng.random() < 0.5:
            changed = []
            for t, a in parts:
                if a is None:
                    ws = t.split(" ")
                    for i, w in enumerate(ws):
                        if w and rng.random() < noise:
                            k = rng.random()
                            ws[i] = "" if k < 0.5 and len(ws) > 1 else (rng.choice(self.words) if k > 0.7 else w)
                    t2 = re.sub(" +", " ", " ".join(ws))
                    if t.endswith(" ") and not t2.endswith(" "):
                        t2 += " "
                    if t.startswith(" ") and not t2.startswith(" "):
                        t2 = " " + t2
                    t = t2
                changed.append((t, a))
            parts = changed
        text, spans = "", {}
        for t, a in parts:
            if not text:
                t = t.lstrip()
            if a:
                spans[a] = (len(text), len(text) + len(t))
            text += t
        text, spans = self.style(text, spans, row.source)
        return text, {a: text[s:e] for a, (s, e) in spans.items()}

    def style(self, text, spans, source):
        rng = self.rng
        k = rng.random()
        if source == "own":
            if k < 0.35:
                text = text.lower()
            elif k < 0.7:
                text = text[:1].upper() + text[1:]
            text = text.replace(" i ", " I ").replace(" i'm ", " I'm ") if k > 0.5 else text
        elif k < 0.08:
            text = text.lower()
        elif k < 0.16:
            text = text[:1].upper() + text[1:]
        if rng.random() < (0.10 if source == "own" else 0.03):
            p = rng.choice(("hey ", "please ", "can you ", "could you ", "olly ", "alexa ", "ok google ", "hey siri ",
                            "computer, ", "Please ", "Hey, ", "would you ", "i want you to ", "i need you to "))
            text = p + text
            spans = {a: (s + len(p), e + len(p)) for a, (s, e) in spans.items()}
        if rng.random() < 0.12 and not text.endswith((".", "?", "!")):
            text += rng.choice((".", ".", "?", "?", "!", " please", ", please"))
        elif rng.random() < 0.1 and text.endswith((".", "?", "!")):
            if not any(e == len(text) for _, e in spans.values()):
                text = text[:-1]
        return text, spans


def own_row(gen, call, rng):
    text, spans = gen.sample(call, rng)
    return Row(text, call, spans, True, "own")
