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
// What a number measures. Units of one dimension are converted to one another; from MONTHS on each stands for itself.
enum td_agree_dim {
    TD_AGREE_DIM_NONE, // a plain number
    TD_AGREE_DIM_TIME_OF_DAY,
    TD_AGREE_DIM_DATE, // month x 100 + day
    TD_AGREE_DIM_LENGTH,
    TD_AGREE_DIM_MASS,
    TD_AGREE_DIM_DURATION,
    TD_AGREE_DIM_VOLUME,
    TD_AGREE_DIM_SPEED,
    TD_AGREE_DIM_BYTES,
    TD_AGREE_DIM_SHARE,
    TD_AGREE_DIM_MONTHS,
    TD_AGREE_DIM_YEARS,
    TD_AGREE_DIM_DOLLAR,
    TD_AGREE_DIM_EURO,
    TD_AGREE_DIM_POUND,
    TD_AGREE_DIM_CELSIUS,
    TD_AGREE_DIM_FAHRENHEIT,
    TD_AGREE_DIM_DEGREES // Celsius or Fahrenheit may follow
};
// The unit's dimension and its factor to that dimension's own unit (metre, gram, second, litre, metre a second, byte,
// per cent). NONE: it is no unit.
enum td_agree_dim td_agree_unit(struct td_str word, double *factor);
int td_agree_month(struct td_str word); // 1..12; 0 none
// "yes" 1, "no" -1 in the languages known here, else 0.
int td_agree_polarity(struct td_str word);

#endif
