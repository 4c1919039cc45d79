/* SPDX-License-Identifier: Apache-2.0 */
/* The table of verbs. */
#include "launch/command.h"

#define BANYAN_ROW(name, needs, doc) extern const verb verb_##name;
#include "launch/verbs.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) {#name, doc, &verb_##name},
const verb_entry verb_table[] = {
#include "launch/verbs.def"
    {NULL, NULL, NULL}};
#undef BANYAN_ROW
