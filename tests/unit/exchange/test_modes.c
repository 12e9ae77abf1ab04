// SPDX-License-Identifier: Apache-2.0
// The modes in which more than one attempt is under way: cascade, progressive, hedge.
#include "script.h"

#define CASCADE .mode = TD_MODE_CASCADE, .threshold = 0.7, .hold_tokens = 3, .hold_ms = 200
#define PROGRESSIVE .mode = TD_MODE_PROGRESSIVE, .aware = true
#define HEDGE .mode = TD_MODE_HEDGE, .hedge_ms = 300

static void cascade(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"held back until the window is full, then shown at once",
         {CASCADE, .steps = "dc"},
         "go 0:90'a' 0:90'b' 0:90'c' 0:90'd' 0:stop 0:end",
         "S0/device:draft B0 \"abc\" \"d\" R0=ok F:stop D .ok"},
        {"a short sure answer is shown at its end",
         {CASCADE, .steps = "dc"},
         "go 0:90'a' 0:stop 0:end",
         "S0/device:draft B0 \"a\" R0=ok F:stop D .ok"},
        {"a sure function call too",
         {CASCADE, .steps = "dc", .whole = true},
         "go 0:*'{}' 0:tools 0:end",
         "S0/device:draft B0 tool0(f{}) R0=ok F:tools D .ok"},
        {"the window also ends in time",
         {CASCADE, .steps = "dc"},
         "go 0:on 0:90'a' @199 @200 0:90'b' 0:stop 0:end",
         "S0/device:draft B0 \"a\" \"b\" R0=ok F:stop D .ok"},
        {"unsure: the better one is asked and the draft is never seen",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:50'b' 0:50'c' 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine X0 R0=declined B1 \"better\" R1=ok F:stop D .ok"},
        {"unsure at the end of the answer",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:stop 0:end 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine R0=declined B1 \"better\" R1=ok F:stop D .ok"},
        {"not for me",
         {CASCADE, .steps = "dc"},
         "go 0:!NOT_FOR_ME 1:'better' 1:stop 1:end",
         "S0/device:draft R0=declined S1/cloud:refine B1 \"better\" R1=ok F:stop D .ok"},
        {"no probabilities: its own word is all there is",
         {CASCADE, .steps = "dc"},
         "go 0:'a' 0:stop 0:end",
         "S0/device:draft B0 \"a\" R0=ok F:stop D .ok"},
        {"all better ones fail: the unsure answer, marked",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:stop 0:end 1:!CONNECT",
         "S0/device:draft S1/cloud:refine R1=failed B0 \"a\" R0=ok F:stop D~ .degraded"},
        {"also while it is still speaking",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:50'b' 0:50'c' 1:!CONNECT 0:50'd' 0:stop 0:end",
         "S0/device:draft S1/cloud:refine R1=failed B0 \"abc\" \"d\" R0=ok F:stop D~ .degraded"},
        {"and for a client that does not stream",
         {CASCADE, .steps = "dc", .whole = true},
         "go 0:50'a' 0:50'b' 0:50'c' 1:!CONNECT 0:50'd' 0:stop 0:end",
         "S0/device:draft S1/cloud:refine R1=failed B0 \"abcd\" R0=ok F:stop D~ .degraded"},
        {"the policy forbids the better one: the same",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:stop 0:end 1:no,NO_TARGET",
         "S0/device:draft S1/cloud:refine R1=refused B0 \"a\" R0=ok F:stop D~ .degraded"},
        {"declined and nobody else: the real fault",
         {CASCADE, .steps = "dc"},
         "go 0:!NOT_FOR_ME 1:!UPSTREAM_AUTH,401",
         "S0/device:draft R0=declined S1/cloud:refine R1=failed E:upstream_auth:502 .error"},
        {"the better provider's refusal is not answered by the device",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:stop 0:end 1:!CONTENT_POLICY,400",
         "S0/device:draft S1/cloud:refine R1=failed R0=ok E:content_policy:400 .error"},
        {"the deadline finds the unsure answer",
         {CASCADE, .steps = "dc", .deadline_ms = 900},
         "go 0:50'a' 0:stop 0:end 1:on @900",
         "S0/device:draft S1/cloud:refine X1 R1=lost B0 \"a\" R0=ok F:stop D~ .degraded"},
        {"the device's fault is the next attempt",
         {CASCADE, .steps = "dc"},
         "go 0:90'a' 0:!HOST_CRASH 1:'b' 1:stop 1:end",
         "S0/device:draft R0=failed S1/cloud:refine B1 \"b\" R1=ok F:stop D .ok"},
        {"trusted, shown and cut: the better one goes on",
         {CASCADE, .steps = "dc"},
         "go 0:90'a' 0:90'b' 0:90'c' 0:!HOST_CRASH 1:'d' 1:stop 1:end",
         "S0/device:draft B0 \"abc\" R0=failed S1/cloud:continue <abc> O1 \"d\" R1=ok F:stop D .ok"},
        {"the escalation is cut: the device goes on where the policy lets it",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:stop 0:end 1:'bet' 1:!CUT 2:'ter' 2:stop 2:end",
         "S0/device:draft S1/cloud:refine R0=declined B1 \"bet\" R1=failed S2/device:continue <bet> O2 \"ter\" R2=ok "
         "F:stop D~ .degraded"},
        {"nobody better in the plan: nothing is held back",
         {CASCADE, .steps = "d"},
         "go 0:50'a' 0:stop 0:end",
         "S0/device:main B0 \"a\" R0=ok F:stop D .ok"},
        {"the client leaves while it waits",
         {CASCADE, .steps = "dc"},
         "go 0:50'a' 0:50'b' 0:50'c' gone",
         "S0/device:draft S1/cloud:refine X0 R0=cancelled X1 R1=cancelled .gone"},
        {"a retry of the escalation, while the draft stands by",
         {CASCADE, .steps = "dc", .retries = 1},
         "go 0:50'a' 0:stop 0:end 1:!UPSTREAM_SERVER,503 @500 2:'b' 2:stop 2:end",
         "S0/device:draft S1/cloud:refine R1=failed S2/cloud:refine! R0=declined B2 \"b\" R2=ok F:stop D .ok"},
        {"thoughts are held back as text is, and judged by their tokens",
         {CASCADE, .steps = "dc"},
         "go 0:?'hm' 0:90'a' 0:stop 0:end",
         "S0/device:draft B0 ?\"hm\" \"a\" R0=ok F:stop D .ok"},
    };
    RUN_ROWS(rows);
}

static void progressive(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"confirm: the better answer says the same",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:'sa' 1:'me' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:confirm/1 R1=ok R0=ok F:stop D .ok"},
        {"append: it goes on",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:'sa' 1:'me, and' 1:' more' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:append/1 \", and\" \" more\" R1=ok R0=ok F:stop D .ok"},
        {"replace: it says something else",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:'sa' 1:'lt' 1:'!' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:replace/1 \"salt\" \"!\" R1=ok R0=ok F:stop D .ok"},
        {"replace: it says less",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:'sa' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:replace/1 \"sa\" R1=ok R0=ok F:stop D .ok"},
        {"the better answer overtakes a draft that is still speaking",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'sa' 1:'same' 0:'me' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"sa\" X0 R0=lost V1:append/1 \"me\" R1=ok F:stop D .ok"},
        {"it comes before the draft: there is only one answer",
         {PROGRESSIVE, .steps = "dc"},
         "go 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine X0 R0=lost B1 \"better\" R1=ok F:stop D .ok"},
        {"the better one fails: the draft is final, marked",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:!CONNECT",
         "S0/device:draft S1/cloud:refine B0 \"same\" R1=failed V1:confirm/0 R0=ok F:stop D~ .degraded"},
        {"it fails while the draft is speaking",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'sa' 1:!CONNECT 0:'me' 0:stop 0:end",
         "S0/device:draft S1/cloud:refine B0 \"sa\" R1=failed \"me\" V1:confirm/0 R0=ok F:stop D~ .degraded"},
        {"the next better one is asked",
         {PROGRESSIVE, .steps = "dcs"},
         "go 0:'same' 0:stop 0:end 1:!CONNECT 2:'same' 2:stop 2:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" R1=failed S2/spare:refine V1:confirm/2 R2=ok R0=ok F:stop D~ "
         ".degraded"},
        {"the draft fails unseen",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:!NOT_FOR_ME 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine R0=declined B1 \"better\" R1=ok F:stop D .ok"},
        {"the draft breaks off: the better one completes it",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'sa' 0:!HOST_CRASH 1:'same' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"sa\" R0=failed V1:append/1 \"me\" R1=ok F:stop D .ok"},
        {"both break off: no truncated answer passes for one",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'sa' 0:!HOST_CRASH 1:!CONNECT",
         "S0/device:draft S1/cloud:refine B0 \"sa\" R0=failed R1=failed E:host_crash:503 .broken"},
        {"the replacement is cut: the draft comes back whole",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:'other' 1:!CUT",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:replace/1 \"other\" R1=failed V2:replace/0 \"same\" R0=ok "
         "F:stop D~ .degraded"},
        {"or another goes on with it",
         {PROGRESSIVE, .steps = "dce"},
         "go 0:'same' 0:stop 0:end 1:'oth' 1:!CUT 2:'er' 2:stop 2:end",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:replace/1 \"oth\" R1=failed S2/edge:continue <oth> R0=lost O2 "
         "\"er\" R2=ok F:stop D~ .degraded"},
        {"asked only after a pause",
         {PROGRESSIVE, .steps = "dc", .refine_ms = 500},
         "go 0:'same' 0:stop 0:end @499 @500 1:'same' 1:stop 1:end",
         "S0/device:draft B0 \"same\" S1/cloud:refine V1:confirm/1 R1=ok R0=ok F:stop D .ok"},
        {"typed on within the pause: the cloud is not paid",
         {PROGRESSIVE, .steps = "dc", .refine_ms = 500},
         "go 0:'same' 0:stop 0:end gone",
         "S0/device:draft B0 \"same\" R0=ok .gone"},
        {"no draft to be had: no pause either",
         {PROGRESSIVE, .steps = "dc", .refine_ms = 500},
         "go 0:!NOT_FOR_ME 1:'b' 1:stop 1:end",
         "S0/device:draft R0=declined S1/cloud:refine B1 \"b\" R1=ok F:stop D .ok"},
        {"leaving stops both",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'sa' 1:hi gone",
         "S0/device:draft S1/cloud:refine B0 \"sa\" X0 R0=cancelled X1 R1=cancelled .gone"},
        {"the process drains: the draft is final",
         {PROGRESSIVE, .steps = "dc", .refine_ms = 500},
         "go 0:'same' 0:stop 0:end drain",
         "S0/device:draft B0 \"same\" V1:confirm/0 R0=ok F:stop D~ .degraded"},
        {"the deadline: the draft is final",
         {PROGRESSIVE, .steps = "dc", .deadline_ms = 900},
         "go 0:'same' 0:stop 0:end 1:on @900",
         "S0/device:draft S1/cloud:refine B0 \"same\" V1:confirm/0 R0=ok X1 R1=lost F:stop D~ .degraded"},
        {"the same function call is confirmed, whatever its id",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:*'{\"m\":10}' 0:tools 0:end 1:*'{\"m\"' 1:*':10}' 1:tools 1:end",
         "S0/device:draft S1/cloud:refine B0 tool0(f{\"m\":10}) V1:confirm/1 R1=ok R0=ok F:tools D .ok"},
        {"another one replaces it",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:*'{\"m\":10}' 0:tools 0:end 1:*'{\"m\":12}' 1:tools 1:end",
         "S0/device:draft S1/cloud:refine B0 tool0(f{\"m\":10}) V1:replace/1 tool0(f{\"m\":12}) R1=ok R0=ok F:tools D "
         ".ok"},
        {"the provider refuses the content: told, not hidden behind the draft",
         {PROGRESSIVE, .steps = "dc"},
         "go 0:'same' 0:stop 0:end 1:!CONTENT_POLICY,400",
         "S0/device:draft S1/cloud:refine B0 \"same\" R1=failed R0=ok E:content_policy:400 .broken"},
        {"an unaware client sees the better answer alone",
         {.mode = TD_MODE_PROGRESSIVE, .steps = "dc"},
         "go 0:'draft' 0:stop 0:end 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine R0=lost B1 \"better\" R1=ok F:stop D .ok"},
        {"or the draft alone",
         {.mode = TD_MODE_PROGRESSIVE, .steps = "dc"},
         "go 0:'draft' 0:stop 0:end 1:!CONNECT",
         "S0/device:draft S1/cloud:refine R1=failed B0 \"draft\" R0=ok F:stop D~ .degraded"},
        {"the same where it does not stream",
         {.mode = TD_MODE_PROGRESSIVE, .steps = "dc", .whole = true, .aware = true},
         "go 0:'draft' 0:stop 0:end 1:'better' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine R0=lost B1 \"better\" R1=ok F:stop D .ok"},
    };
    RUN_ROWS(rows);
}

#define DECLINES .declines = "Not for me."

static void declining(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"a cascade escalates, however sure it was",
         {CASCADE, DECLINES, .steps = "dc"},
         "go 0:90'Not for me.' 0:stop 0:end 1:'yes' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine R0=declined B1 \"yes\" R1=ok F:stop D .ok"},
        {"nobody better can be had: that sentence is more than nothing",
         {CASCADE, DECLINES, .steps = "dc"},
         "go 0:90'Not for me.' 0:stop 0:end 1:!CONNECT",
         "S0/device:draft S1/cloud:refine R1=failed B0 \"Not for me.\" R0=ok F:stop D~ .degraded"},
        {"a fallback asks the next, and nothing of it was seen",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "dc"},
         "go 0:'Not for' 0:' me.' 0:stop 0:end 1:'yes' 1:stop 1:end",
         "S0/device:main S1/cloud:refine R0=declined B1 \"yes\" R1=ok F:stop D .ok"},
        {"and has it in reserve",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "dc"},
         "go 0:'Not for' 0:' me.' 0:stop 0:end 1:!CONNECT",
         "S0/device:main S1/cloud:refine R1=failed B0 \"Not for me.\" R0=ok F:stop D~ .degraded"},
        {"what only begins like it is shown",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "dc"},
         "go 0:'Not for' 0:' you' 0:'.' 0:stop 0:end",
         "S0/device:main B0 \"Not for you\" \".\" R0=ok F:stop D .ok"},
        {"also where it ends there",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "dc"},
         "go 0:'Not' 0:stop 0:end",
         "S0/device:main B0 \"Not\" R0=ok F:stop D .ok"},
        {"the same for a client that does not stream",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "dc", .whole = true},
         "go 0:'Not for me.' 0:stop 0:end 1:'yes' 1:stop 1:end",
         "S0/device:main S1/cloud:refine R0=declined B1 \"yes\" R1=ok F:stop D .ok"},
        {"nobody else to ask: an honest answer, as it comes",
         {.mode = TD_MODE_SINGLE, DECLINES, .steps = "d"},
         "go 0:'Not for' 0:' me.' 0:stop 0:end",
         "S0/device:main B0 \"Not for\" \" me.\" R0=ok F:stop D .ok"},
        {"the others have failed already: the same, marked",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "cd"},
         "go 0:!CONNECT 1:'Not for me.' 1:stop 1:end",
         "S0/cloud:main R0=failed S1/device:main B1 \"Not for me.\" R1=ok F:stop D~ .degraded"},
        {"it is never how another's text goes on",
         {.mode = TD_MODE_FALLBACK, DECLINES, .steps = "cd"},
         "go 0:'Rome' 0:!CUT 1:'Not for me.' 1:stop 1:end",
         "S0/cloud:main B0 \"Rome\" R0=failed S1/device:continue <Rome> R1=declined E:cut:502 .broken"},
        {"a progressive draft shows it until the better answer comes",
         {PROGRESSIVE, DECLINES, .steps = "dc"},
         "go 0:'Not for me.' 0:stop 0:end 1:'yes' 1:stop 1:end",
         "S0/device:draft S1/cloud:refine B0 \"Not for me.\" V1:replace/1 \"yes\" R1=ok R0=ok F:stop D .ok"},
    };
    RUN_ROWS(rows);
}

static void a_command_model_decides_with_two_tokens(void **state) {
    (void)state;
    struct run r;
    struct setup s = {CASCADE, .steps = "dc", .command = true, .whole = true};
    run_open(&r, &s);
    run_script(&r, "go 0:80'x' 0:80'y' 0:99'z' 0:stop 0:end"); // 0.64 is below 0.7, the mean would not be
    assert_int_equal(r.starts, 2);
    run_close(&r);
}

static void hedge(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"fast enough: no second try",
         {HEDGE, .steps = "cs"},
         "go 0:on 0:'a' @300 0:stop 0:end",
         "S0/cloud:main B0 \"a\" R0=ok F:stop D .ok"},
        {"the second wins",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 1:'b' 1:stop 1:end",
         "S0/cloud:main S1/spare:hedge X0 R0=lost B1 \"b\" R1=ok F:stop D .ok"},
        {"the first wins after all",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 0:'a' 0:stop 0:end",
         "S0/cloud:main S1/spare:hedge X1 R1=lost B0 \"a\" R0=ok F:stop D .ok"},
        {"no room in the hedge budget",
         {HEDGE, .steps = "cs"},
         "go 0:on -hedge @300 0:'a' 0:stop 0:end",
         "S0/cloud:main B0 \"a\" R0=ok F:stop D .ok"},
        {"no room for it where it was asked: it is still the fallback",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 1:no,OVERLOAD 0:!CONNECT 2:'b' 2:stop 2:end",
         "S0/cloud:main S1/spare:hedge R1=refused R0=failed S2/spare:main B2 \"b\" R2=ok F:stop D~ .degraded"},
        {"a paid target that is not configured for it is not hedged to",
         {HEDGE, .steps = "sc"},
         "go 0:on @300 0:'a' 0:stop 0:end",
         "S0/spare:main B0 \"a\" R0=ok F:stop D .ok"},
        {"one fails: the other is the answer",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 0:!UPSTREAM_SERVER,500 1:'b' 1:stop 1:end",
         "S0/cloud:main S1/spare:hedge R0=failed B1 \"b\" R1=ok F:stop D~ .degraded"},
        {"a refusal of the content by the second does not stop the first",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 1:!CONTENT_POLICY,400 0:'a' 0:stop 0:end",
         "S0/cloud:main S1/spare:hedge R1=failed B0 \"a\" R0=ok F:stop D .ok"},
        {"but nobody else is asked after it",
         {HEDGE, .steps = "cse"},
         "go 0:on @300 1:!CONTENT_POLICY,400 0:!CONNECT",
         "S0/cloud:main S1/spare:hedge R1=failed R0=failed E:content_policy:400 .error"},
        {"both fail: the third",
         {HEDGE, .steps = "cse"},
         "go 0:on @300 0:!CONNECT 1:!CONNECT 2:'c' 2:stop 2:end",
         "S0/cloud:main S1/spare:hedge R0=failed R1=failed S2/edge:main B2 \"c\" R2=ok F:stop D~ .degraded"},
        {"failed before the second try was due: the next, unhedged",
         {HEDGE, .steps = "cs"},
         "go 0:!CONNECT @300 1:'b' 1:stop 1:end",
         "S0/cloud:main R0=failed S1/spare:main B1 \"b\" R1=ok F:stop D~ .degraded"},
        {"the winner is cut: the loser may be asked again",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 1:'b' 1:!CUT 2:'c' 2:stop 2:end",
         "S0/cloud:main S1/spare:hedge X0 R0=lost B1 \"b\" R1=failed S2/cloud:continue <b> O2 \"c\" R2=ok F:stop D "
         ".ok"},
        {"leaving stops both",
         {HEDGE, .steps = "cs"},
         "go 0:on @300 gone",
         "S0/cloud:main S1/spare:hedge X0 R0=cancelled X1 R1=cancelled .gone"},
        {"no hedge while draining",
         {HEDGE, .steps = "cs"},
         "go 0:on drain @300 0:stop 0:end",
         "S0/cloud:main B0 R0=ok F:stop D .ok"},
    };
    RUN_ROWS(rows);
}

static void the_delivered_answer_is_what_is_billed(void **state) {
    (void)state;
    struct run r;
    struct setup s = {.mode = TD_MODE_FALLBACK, .steps = "cs", .retries = 1};
    run_open(&r, &s);
    run_script(&r, "go 0:!UPSTREAM_SERVER,500 @500 1:!UPSTREAM_SERVER,500 2:'a' 2:stop 2:use,100,20 2:end");
    assert_int_equal(r.usage.prompt_tokens, 100);
    assert_int_equal(r.usage.completion_tokens, 20);
    assert_int_equal(r.usage_total.prompt_tokens, 100); // what a provider refused with a status costs nothing
    assert_int_equal(r.end_cost_nusd, 100 * 2500 + 20 * 10000);
    run_close(&r);

    // Cut and continued: the prompt once, the completion of both; the total has the prompt twice and the prefix.
    s = (struct setup){.mode = TD_MODE_FALLBACK, .steps = "ce"};
    run_open(&r, &s);
    run_script(&r, "go 0:'abcd' 0:'efgh' 0:!CUT 1:'ijkl' 1:stop 1:use,12,1 1:end");
    assert_int_equal(r.usage.prompt_tokens, 10);
    assert_int_equal(r.usage.completion_tokens, 3);
    assert_true(r.usage.estimated);
    assert_int_equal(r.usage_total.prompt_tokens, 22);
    assert_int_equal(r.end_cost_nusd, 10 * 2500 + 2 * 10000);
    run_close(&r);

    // A hedge's loser is paid for as far as is known.
    s = (struct setup){.mode = TD_MODE_HEDGE, .hedge_ms = 300, .steps = "cs"};
    run_open(&r, &s);
    run_script(&r, "go 0:on @300 1:on 1:'b' 1:stop 1:use,10,1 1:end");
    assert_int_equal(r.usage_total.prompt_tokens, 20);
    assert_int_equal(r.usage.prompt_tokens, 10);
    assert_int_equal(r.end_cost_nusd, 2 * 10 * 2500 + 10000);
    run_close(&r);
}

static void confidence_is_reckoned_over_the_window(void **state) {
    (void)state;
    struct run r;
    struct setup s = {.mode = TD_MODE_CASCADE, .steps = "dc", .threshold = 0.7, .hold_tokens = 2};
    run_open(&r, &s);
    run_script(&r, "go 0:90'a' 0:40'b'"); // geometric mean 0.6
    assert_int_equal(r.starts, 2);
    run_close(&r);
    run_open(&r, &s);
    run_script(&r, "go 0:90'a' 0:60'b' 0:1'c' 0:stop 0:end"); // 0.73; what comes later does not count
    assert_int_equal(r.starts, 1);
    double confidence = td_exchange_record(r.x, 0)->confidence;
    assert_true(confidence > 0.734 && confidence < 0.736);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cascade),
        cmocka_unit_test(progressive),
        cmocka_unit_test(declining),
        cmocka_unit_test(a_command_model_decides_with_two_tokens),
        cmocka_unit_test(hedge),
        cmocka_unit_test(the_delivered_answer_is_what_is_billed),
        cmocka_unit_test(confidence_is_reckoned_over_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
