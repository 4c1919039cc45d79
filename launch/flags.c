/* SPDX-License-Identifier: Apache-2.0 */
/* The flags of every verb. */
#include "launch/command.h"

const flag common_flags[] = {
    {"config", "FILE", NULL, "read this config (text format, see configs/)"},
    {"set", "FIELD=VALUE", NULL, "set any field of the config, \"cache.max_rows=1k\""},
    {"json", "OUTPUT", NULL, "also write results as JSON lines"},
    {"wide", NULL, NULL, "tables with all of their columns, lines longer than 120 characters"},
    {"help", NULL, NULL, "show this"},
    {NULL, NULL, NULL, NULL}};
