/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's steps of a call. */
#include "dist/cache.h"

const banyan_backend banyan_host_backend = {.write = banyan_host_write,
                                            .compute = banyan_panel_compute,
                                            .send = banyan_panel_send,
                                            .merge = banyan_panel_merge,
                                            .probe = banyan_panel_probe,
                                            .copy = banyan_host_copy};
