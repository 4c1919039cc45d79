/* SPDX-License-Identifier: Apache-2.0 */
/* The heat map that users of this test expect: lengths across, depths down, red to yellow to
 * green, the mean in the title. In a terminal with colours each cell is a coloured field,
 * elsewhere a number; on disk it is an SVG that gnuplot draws. */
#include "launch/needle/needle.h"

#include "launch/columns.h"
#include "launch/launch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *length_text(int64_t length, char *text, size_t bytes)
{
    static const char unit[] = {'G', 'M', 'K'};
    for (int i = 0; i < 3; i++) {
        int64_t size = (int64_t)1 << (30 - 10 * i);
        if (length < size || length % size) continue;
        snprintf(text, bytes, "%lld%c", (long long)(length / size), unit[i]);
        return text;
    }
    snprintf(text, bytes, "%lld", (long long)length);
    return text;
}

/* #F0496E at 0, #EBB839 at 1/2, #0CD79F at 1. */
void heat_colour(double value, int rgb[3])
{
    static const int stop[3][3] = {{0xF0, 0x49, 0x6E}, {0xEB, 0xB8, 0x39}, {0x0C, 0xD7, 0x9F}};
    double x = 2 * (value < 0 ? 0 : value > 1 ? 1 : value);
    int from = x < 1 ? 0 : 1;
    for (int c = 0; c < 3; c++)
        rgb[c] = (int)lround(stop[from][c] + (x - from) * (stop[from + 1][c] - stop[from][c]));
}

double heat_mean(const heat_map *h)
{
    double sum = 0;
    int64_t cells = 0;
    for (int64_t i = 0; i < (int64_t)h->rows * h->columns; i++)
        if (!isnan(h->value[i])) sum += h->value[i], cells++;
    return cells ? sum / (double)cells : NAN;
}

static void print_columns(const heat_map *h, int32_t first, int32_t end, bool colour, FILE *out)
{
    char text[32];
    fputs("  depth", out);
    for (int32_t c = first; c < end; c++)
        fprintf(out, " %6s", length_text(h->length[c], text, sizeof text));
    fputc('\n', out);
    for (int32_t r = 0; r < h->rows; r++) {
        fprintf(out, " %4.0f %%", h->depth[r]);
        for (int32_t c = first; c < end; c++) {
            double value = h->value[(int64_t)r * h->columns + c];
            if (isnan(value)) {
                fprintf(out, " %6s", "-");
                continue;
            }
            int rgb[3];
            heat_colour(value, rgb);
            if (colour)
                fprintf(out, " \033[48;2;%d;%d;%dm\033[30m %4.2f \033[0m", rgb[0], rgb[1],
                        rgb[2], value);
            else
                fprintf(out, " %6.2f", value);
        }
        fputc('\n', out);
    }
}

/* Lengths that a line has no room for follow below. */
void heat_print(const heat_map *h, FILE *out, bool colour, bool is_wide)
{
    const int32_t most = is_wide ? h->columns : (COLUMNS_MOST - 7) / 7;
    fprintf(out, "\n%s, mean %.3f\n", h->title, heat_mean(h));
    for (int32_t first = 0; first < h->columns; first += most)
        print_columns(h, first, first + most < h->columns ? first + most : h->columns, colour,
                      out);
}

/* A quote inside is doubled. */
void plot_string(const char *text, FILE *out)
{
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'') fputc('\'', out);
        if (*text != '\n') fputc(*text, out);
    }
    fputc('\'', out);
}

void heat_plot(const heat_map *h, FILE *out)
{
    char text[32];
    int wide = 170 + 90 * h->columns, high = 150 + 34 * h->rows;
    fprintf(out, "set terminal svg size %d,%d font 'sans-serif,13' background '#ffffff'\n",
            wide < 420 ? 420 : wide, high < 260 ? 260 : high);
    fputs("set title ", out);
    char title[256];
    snprintf(title, sizeof title, "%s, mean %.3f", h->title, heat_mean(h));
    plot_string(title, out);
    fprintf(out, " noenhanced\nset xrange [-0.5:%d.5]\nset yrange [%d.5:-0.5]\n",
            h->columns - 1, h->rows - 1);
    fputs("set xlabel 'context length, tokens'\nset ylabel 'depth, %'\nset border 0\n"
          "set tics scale 0\nset xtics (",
          out);
    for (int32_t c = 0; c < h->columns; c++) {
        char label[96];
        snprintf(label, sizeof label, "%s%s%s", length_text(h->length[c], text, sizeof text),
                 h->of ? " " : "", h->of ? h->of[c] : "");
        fputs(c ? ", " : "", out);
        plot_string(label, out);
        fprintf(out, " %d", c);
    }
    fputs(")\nset ytics (", out);
    for (int32_t r = 0; r < h->rows; r++)
        fprintf(out, "%s'%.0f' %d", r ? ", " : "", h->depth[r], r);
    fputs(")\nset palette defined (0 '#F0496E', 0.5 '#EBB839', 1 '#0CD79F')\n"
          "set cbrange [0:1]\nset cblabel 'recall'\n",
          out);
    for (int32_t r = 0; r < h->rows; r++)
        for (int32_t c = 0; c < h->columns; c++) {
            double value = h->value[(int64_t)r * h->columns + c];
            int rgb[3] = {0xE0, 0xE0, 0xE0}; /* not measured */
            if (!isnan(value)) heat_colour(value, rgb);
            fprintf(out,
                    "set object rectangle from %d-0.5,%d-0.5 to %d+0.5,%d+0.5 fillcolor rgb "
                    "'#%02X%02X%02X' fillstyle solid border lc rgb '#FFFFFF' lw 2\n",
                    c, r, c, r, rgb[0], rgb[1], rgb[2]);
        }
    /* the invisible point is there for the colour box */
    fputs("plot '-' using 1:2:3 with points pointtype 0 palette notitle\n0 0 1\ne\n", out);
}

plot_result heat_svg(const heat_map *h, FILE *out)
{
    char *script = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&script, &bytes);
    if (!memory) return PLOT_FAILED;
    heat_plot(h, memory);
    plot_result result = fclose(memory) == 0 ? plot_svg(script, out) : PLOT_FAILED;
    free(script);
    return result;
}
