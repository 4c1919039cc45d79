/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures by gnuplot. It says nothing when the disk is full, and would replace whatever bears
 * the name of its output; so it draws to its standard output, and what arrives is copied to a
 * stream of ours, whose errors are seen. Its script lies in memory. */
#define _GNU_SOURCE /* memfd_create */
#include "launch/launch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char svg_end[] = "</svg>";

/* Everything that gnuplot makes of the script; is it a whole picture? */
static bool copy_drawn(FILE *from, FILE *to)
{
    char line[4096];
    bool whole = false;
    while (fgets(line, sizeof line, from)) {
        fputs(line, to);
        if (strstr(line, svg_end)) whole = true;
    }
    return whole;
}

plot_result plot_svg(const char *script, FILE *out)
{
    if (system("command -v gnuplot > /dev/null 2>&1") != 0) return PLOT_NO_GNUPLOT;
    int file = memfd_create("plot", 0); /* which gnuplot inherits */
    if (file < 0) return PLOT_FAILED;
    char command[64];
    snprintf(command, sizeof command, "exec gnuplot /dev/fd/%d 2> /dev/null", file);
    size_t bytes = strlen(script);
    bool good = write(file, script, bytes) == (ssize_t)bytes;
    FILE *drawn = good ? popen(command, "r") : NULL;
    good = drawn && copy_drawn(drawn, out);
    if (drawn && pclose(drawn) != 0) good = false;
    close(file);
    return good ? PLOT_DRAWN : PLOT_FAILED;
}

int plot_write(const job *j, const char *path, plot_result (*draw)(const void *arg, FILE *out),
               const void *arg)
{
    output_file *f = path ? output_open(j, path) : NULL;
    if (!f) return path ? EXIT_FAILED : EXIT_OK;
    const plot_result result = j->rank == 0 ? draw(arg, output_stream(f)) : PLOT_DRAWN;
    if (result == PLOT_NO_GNUPLOT)
        say_warning(j, "gnuplot is not installed: no picture in %s; --json has its numbers",
                    path);
    else if (result == PLOT_FAILED)
        say_warning(j, "gnuplot could not draw the picture %s", path);
    return output_close(f, j, result == PLOT_DRAWN);
}
