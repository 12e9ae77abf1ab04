// SPDX-License-Identifier: Apache-2.0
#include "jobs/agree_words.h"

#include <string.h>

// Space-separated lists are searched as they are: they are short, and judging is rare.
static bool listed(const char *list, struct td_str w) {
    if (w.n == 0)
        return false;
    for (const char *p = list; (p = memmem(p, strlen(p), w.p, w.n)); p += w.n)
        if ((p == list || p[-1] == ' ') && (p[w.n] == ' ' || p[w.n] == 0))
            return true;
    return false;
}

static const char stops[] =
    // English function words
    "a an the this that these those it its i me my you your yours he him his she her they them their we us our is are "
    "was were be been being am do does did done has have had having will would shall should can could may might must "
    "of to in on at for from into with by as and so such there here then when where which who whom whose what how why "
    "very also too some any each both own same one ones oneself itself himself herself themselves because since while "
    "way like get gets got going "
    // said around an answer
    "sure okay ok well course great good question answer answers please hope helps help let know need anything else "
    "just simply actually equals equal about roughly around approximately nearly almost sorry happy "
    "now currently called total "
    // German, French, Spanish
    "der die das den dem des ein eine einen einem einer eines und ist sind war waren im in am um von zu zum zur mit "
    "fur auf es er sie wir ihr man gibt hat haben wird "
    "le la les un une des du de et est sont etait au aux il elle on dans pour avec se sa son ses ne qui que en "
    "el los las una unos unas y es son esta estan era del al lo su sus con por para";
static const char negations[] = "not no never none neither nor nobody nothing without hardly barely rarely off "
                                "nicht kein keine keinen keinem keiner nie niemals ohne "
                                "pas jamais aucun aucune sans nunca ningun ninguna sin";
static const char hard[] =
    "monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday tonight morning evening night "
    "noon midnight first second third fourth fifth last next half quarter double once twice north south east west "
    "red green blue yellow black white orange purple brown pink grey if unless until except only but or than more "
    "most fewer probably maybe perhaps possibly certainly definitely surely always sometimes usually all every "
    "before after < > <= >= == != && || montag dienstag mittwoch donnerstag freitag samstag sonntag heute morgen "
    "gestern aber nur oder";

// word, what it is the opposite of. A negated word and its opposite are the same ("not open", "closed").
static const char *const opposites[][2] = {
    {"closed", "open"},       {"shut", "open"},       {"forbidden", "allow"}, {"prohibited", "allow"},
    {"banned", "allow"},      {"dead", "alive"},      {"failed", "pass"},     {"fail", "pass"},
    {"fails", "pass"},        {"false", "true"},      {"removed", "add"},     {"remove", "add"},
    {"rejected", "accept"},   {"reject", "accept"},   {"disabled", "enable"}, {"disable", "enable"},
    {"excluded", "include"},  {"exclude", "include"}, {"disagree", "agree"},  {"cerrado", "abierto"},
    {"geschlossen", "offen"}, {"ferme", "ouvert"},
};
// What "un", "in", "im", "il", "ir" and "dis" turn into its opposite.
static const char negatable[] =
    "possible valid legal locked safe allowed able known available correct common healthy complete active visible "
    "likely certain necessary important changed usual stable supported limited paid used married equal direct "
    "regular relevant responsible connected continued satisfied";

static const char *const synonyms[][2] = {
    {"big", "large"},     {"biggest", "largest"}, {"huge", "large"},
    {"kid", "child"},     {"children", "child"},  {"begins", "start"},
    {"begin", "start"},   {"began", "start"},     {"wrote", "write"},
    {"written", "write"}, {"paid", "pay"},        {"made", "make"},
    {"rose", "rise"},     {"risen", "rise"},      {"went", "go"},
    {"gone", "go"},       {"spoke", "speak"},     {"spoken", "speak"},
    {"took", "take"},     {"taken", "take"},      {"gave", "give"},
    {"given", "give"},    {"won", "win"},         {"beaten", "beat"},
    {"built", "build"},   {"bought", "buy"},      {"sold", "sell"},
    {"found", "find"},    {"grew", "grow"},       {"fell", "fall"},
    {"fallen", "fall"},   {"automobile", "car"},  {"film", "movie"},
    {"photo", "picture"}, {"permitted", "allow"}, {"allowed", "allow"},
    {"assist", "help"},   {"using", "use"},       {"weighs", "heavy"},
    {"weigh", "heavy"},   {"height", "tall"},     {"high", "tall"},
    {"hi", "hello"},      {"hey", "hello"},       {"thanks", "thank"},
    {"mainly", "mostly"}, {"chiefly", "mostly"},  {"colour", "color"},
    {"centre", "center"}, {"metre", "meter"},     {"recognise", "recognize"},
};

static bool stem_is(struct td_str w, const char *suffix, size_t keep) {
    size_t n = strlen(suffix);
    return w.n >= n + keep && memcmp(w.p + w.n - n, suffix, n) == 0;
}

// Only endings that change no meaning; what is too short stays.
static struct td_str stem(struct td_str w) {
    if (stem_is(w, "ies", 3) || stem_is(w, "ied", 3))
        w.n -= 2; // "studies", "study" meet at "studi" and "study": see below
    else if (stem_is(w, "sses", 2) || stem_is(w, "xes", 2) || stem_is(w, "ches", 2) || stem_is(w, "shes", 2))
        w.n -= 2;
    else if (stem_is(w, "s", 3) && !stem_is(w, "ss", 1) && !stem_is(w, "us", 1) && !stem_is(w, "is", 1))
        w.n -= 1;
    if (stem_is(w, "ing", 4))
        w.n -= 3;
    else if (stem_is(w, "ed", 3))
        w.n -= 2;
    if (w.n > 4 && w.p[w.n - 1] == w.p[w.n - 2] && !strchr("lsz", w.p[w.n - 1]))
        w.n -= 1; // "stopp"
    if (w.n > 3 && (w.p[w.n - 1] == 'e' || w.p[w.n - 1] == 'y' || w.p[w.n - 1] == 'i'))
        w.n -= 1;
    return w;
}

static bool opposite_of(struct td_str w, struct td_str *base) {
    static const char *const prefixes[] = {"un", "in", "im", "il", "ir", "dis"};
    for (size_t i = 0; i < sizeof opposites / sizeof *opposites; i++)
        if (td_str_is(w, opposites[i][0])) {
            *base = td_str_of(opposites[i][1]);
            return true;
        }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (w.n > n && memcmp(w.p, prefixes[i], n) == 0 && listed(negatable, td_str_n(w.p + n, w.n - n))) {
            *base = td_str_n(w.p + n, w.n - n);
            return true;
        }
    }
    return false;
}

enum td_agree_class td_agree_word(struct td_str w, struct td_str *base, bool *negates) {
    *base = w;
    *negates = false;
    if (listed(negations, w))
        return TD_AGREE_NEGATION;
    if (listed(hard, w))
        return TD_AGREE_HARD;
    if (listed(stops, w))
        return TD_AGREE_STOP;
    *negates = opposite_of(w, base);
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (td_str_is(*base, synonyms[i][0])) {
            *base = td_str_of(synonyms[i][1]);
            break;
        }
    *base = stem(*base);
    return TD_AGREE_CONTENT;
}

bool td_agree_number(struct td_str w, double *value, bool *scale) {
    static const struct {
        const char *word;
        double value;
    } words[] = {{"zero", 0},     {"two", 2},        {"three", 3},     {"four", 4},      {"five", 5},
                 {"six", 6},      {"seven", 7},      {"eight", 8},     {"nine", 9},      {"ten", 10},
                 {"eleven", 11},  {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14}, {"fifteen", 15},
                 {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19}, {"twenty", 20},
                 {"thirty", 30},  {"forty", 40},     {"fifty", 50},    {"sixty", 60},    {"seventy", 70},
                 {"eighty", 80},  {"ninety", 90},    {"zwei", 2},      {"drei", 3},      {"vier", 4},
                 {"funf", 5},     {"sechs", 6},      {"sieben", 7},    {"acht", 8},      {"neun", 9},
                 {"zehn", 10},    {"elf", 11},       {"zwolf", 12},    {"deux", 2},      {"trois", 3},
                 {"quatre", 4},   {"cinq", 5},       {"sept", 7},      {"huit", 8},      {"neuf", 9},
                 {"dix", 10},     {"dos", 2},        {"tres", 3},      {"cuatro", 4},    {"cinco", 5},
                 {"seis", 6},     {"siete", 7},      {"ocho", 8},      {"nueve", 9},     {"diez", 10}},
      scales[] = {{"hundred", 1e2},   {"thousand", 1e3}, {"million", 1e6}, {"millions", 1e6},  {"billion", 1e9},
                  {"trillion", 1e12}, {"hundert", 1e2},  {"tausend", 1e3}, {"millionen", 1e6}, {"mille", 1e3}};
    *scale = false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (td_str_is(w, words[i].word)) {
            *value = words[i].value;
            return true;
        }
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (td_str_is(w, scales[i].word)) {
            *value = scales[i].value;
            *scale = true;
            return true;
        }
    return false;
}

enum td_agree_dim td_agree_unit(struct td_str w, double *factor) {
    static const struct {
        const char *words;
        enum td_agree_dim dim;
        double factor;
    } units[] = {
        {"m meter meters metre metres", TD_AGREE_DIM_LENGTH, 1},
        {"km kilometer kilometers kilometre kilometres", TD_AGREE_DIM_LENGTH, 1000},
        {"cm centimeter centimeters centimetre centimetres", TD_AGREE_DIM_LENGTH, 0.01},
        {"mm millimeter millimeters millimetre millimetres", TD_AGREE_DIM_LENGTH, 0.001},
        {"mile miles mi", TD_AGREE_DIM_LENGTH, 1609.344},
        {"ft foot feet", TD_AGREE_DIM_LENGTH, 0.3048},
        {"inch inches", TD_AGREE_DIM_LENGTH, 0.0254},
        {"g gram grams gramm", TD_AGREE_DIM_MASS, 1},
        {"kg kilogram kilograms kilo kilos kilogramm", TD_AGREE_DIM_MASS, 1000},
        {"mg milligram milligrams", TD_AGREE_DIM_MASS, 0.001},
        {"ton tons tonne tonnes", TD_AGREE_DIM_MASS, 1e6},
        {"lb lbs pound pounds", TD_AGREE_DIM_MASS, 453.59237},
        {"s sec secs second seconds sekunde sekunden seconde secondes segundo segundos", TD_AGREE_DIM_DURATION, 1},
        {"min mins minute minutes minuten minuto minutos", TD_AGREE_DIM_DURATION, 60},
        {"h hr hrs hour hours stunde stunden heure heures hora horas", TD_AGREE_DIM_DURATION, 3600},
        {"day days tag tage tagen jour jours dia dias", TD_AGREE_DIM_DURATION, 86400},
        {"week weeks woche wochen semaine semaines", TD_AGREE_DIM_DURATION, 604800},
        {"ms millisecond milliseconds", TD_AGREE_DIM_DURATION, 0.001},
        {"month months monat monate mois mes meses", TD_AGREE_DIM_MONTHS, 1},
        {"year years jahr jahre jahren an ans annee annees ano anos", TD_AGREE_DIM_YEARS, 1},
        {"l liter liters litre litres", TD_AGREE_DIM_VOLUME, 1},
        {"ml milliliter milliliters millilitre millilitres", TD_AGREE_DIM_VOLUME, 0.001},
        {"km/h kmh kph", TD_AGREE_DIM_SPEED, 1 / 3.6},
        {"m/s", TD_AGREE_DIM_SPEED, 1},
        {"mph", TD_AGREE_DIM_SPEED, 0.44704},
        {"b byte bytes", TD_AGREE_DIM_BYTES, 1},
        {"kb kilobyte kilobytes", TD_AGREE_DIM_BYTES, 1e3},
        {"mb megabyte megabytes", TD_AGREE_DIM_BYTES, 1e6},
        {"gb gigabyte gigabytes", TD_AGREE_DIM_BYTES, 1e9},
        {"tb terabyte terabytes", TD_AGREE_DIM_BYTES, 1e12},
        {"% percent prozent", TD_AGREE_DIM_SHARE, 1},
        {"$ dollar dollars usd", TD_AGREE_DIM_DOLLAR, 1},
        {"\xe2\x82\xac euro euros eur", TD_AGREE_DIM_EURO, 1},
        {"\xc2\xa3 gbp", TD_AGREE_DIM_POUND, 1},
        {"c celsius", TD_AGREE_DIM_CELSIUS, 1},
        {"f fahrenheit", TD_AGREE_DIM_FAHRENHEIT, 1},
        {"\xc2\xb0 degree degrees grad", TD_AGREE_DIM_DEGREES, 1},
        {"uhr", TD_AGREE_DIM_TIME_OF_DAY, 60},
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (listed(units[i].words, w)) {
            *factor = units[i].factor;
            return units[i].dim;
        }
    return TD_AGREE_DIM_NONE;
}

int td_agree_month(struct td_str w) {
    static const char *const months[] = {"january jan januar janvier enero",
                                         "february feb februar fevrier febrero",
                                         "march mar marz mars marzo",
                                         "april apr avril abril",
                                         "may mai mayo",
                                         "june jun juni juin junio",
                                         "july jul juli juillet julio",
                                         "august aug aout agosto",
                                         "september sep sept septembre septiembre",
                                         "october oct oktober octobre octubre",
                                         "november nov novembre noviembre",
                                         "december dec dezember decembre diciembre"};
    for (int i = 0; i < 12; i++)
        if (listed(months[i], w))
            return i + 1;
    return 0;
}

int td_agree_polarity(struct td_str w) {
    return listed("yes yeah yep correct ja oui si", w) ? 1 : listed("no nope nein non", w) ? -1 : 0;
}
