// SPDX-License-Identifier: Apache-2.0
// The words that the judge of agree.h knows: function words, negations, opposites, units, numbers and months in
// English, some in German, French and Spanish. Folded: lower case, without accents. Static tables; any thread.
#ifndef TD_JOBS_AGREE_WORDS_H
#define TD_JOBS_AGREE_WORDS_H

#include "base/str.h"

enum td_agree_class {
    TD_AGREE_CONTENT, // carries meaning
    TD_AGREE_STOP,    // function words, and what people say around an answer
    TD_AGREE_NEGATION,
    TD_AGREE_HARD // an answer with it and one without it differ, whatever else they say
};
// `base` is what the word stands for: its opposite (then *negates), its synonym, or itself.
enum td_agree_class td_agree_word(struct td_str word, struct td_str *base, bool *negates);
// Value of a number word; `scale` for hundred, thousand, million …
bool td_agree_number(struct td_str word, double *value, bool *scale);
// The unit's dimension (never 0) and its factor to that dimension's own unit. 0: none.
int td_agree_unit(struct td_str word, double *factor);
int td_agree_month(struct td_str word); // 1..12; 0 none
// "yes" 1, "no" -1 in the languages known here, else 0.
int td_agree_polarity(struct td_str word);

#define TD_AGREE_DIM_TIME_OF_DAY 1
#define TD_AGREE_DIM_DATE 2 // month x 100 + day

#endif
