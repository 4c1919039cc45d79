// SPDX-License-Identifier: Apache-2.0
// The one C++ file: protobuf's text format has no parser in C. Text goes in, the wire format of
// banyan.Config comes out, and protobuf-c takes it from there. Before that, what people write
// and the parser does not read: a byte order mark, and integers as on the command line, "1m".
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "banyan.h"
#include "banyan.pb.h"

extern "C" bool number_read(const char *text, int64_t low, uint64_t high, int64_t *out);
extern "C" int number_suffix(char c);

extern "C" bool textformat_parse(const char *text, size_t text_bytes, unsigned char **out,
                                 size_t *out_bytes, char *why, size_t why_bytes);

namespace
{

// protobuf says: Message type "banyan.Cache" has no field named "max_token".
// Here, with the nearest name: no field "max_token" in Cache; did you mean "max_tokens"?
std::string in_our_words(const std::string &message)
{
    char type[128], name[128];
    if (sscanf(message.c_str(), "Message type \"%127[^\"]\" has no field named \"%127[^\"]\"",
               type, name) != 2) {
        std::string text = message;
        if (!text.empty()) text[0] = static_cast<char>(std::tolower(text[0]));
        if (!text.empty() && text.back() == '.') text.pop_back();
        return text;
    }
    const auto *message_type =
        google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
    std::vector<const char *> names;
    for (int i = 0; message_type && i < message_type->field_count(); i++)
        names.push_back(message_type->field(i)->name().c_str());
    names.push_back(nullptr);
    std::string text = "no field \"" + std::string(name) + "\" in " +
                       (message_type ? message_type->name() : std::string(type));
    if (const char *near = banyan_nearest(name, names.data()))
        return text + "; did you mean \"" + near + "\"?";
    text += "; it has ";
    for (size_t i = 0; names[i]; i++) text += (i ? ", " : "") + std::string(names[i]);
    return text;
}

// Digits that were written out: from `column` (0-based) of `line` on, text is `more` bytes
// longer.
struct Longer {
    int line, column, more;
};

bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool is_word(char c)
{
    return is_digit(c) || c == '.' || c == '_' || std::isalpha((unsigned char)c);
}

size_t end_of_text(const std::string &given, size_t at)
{
    const char quote = given[at++];
    while (at < given.size() && given[at] != quote && given[at] != '\n')
        at += given[at] == '\\' ? 2 : 1;
    return at + 1;
}

class Plain
{
  public:
    std::string text, why; // why: not empty where an integer is too large
    std::vector<Longer> longer;

    explicit Plain(const std::string &given)
    {
        const char *bom = "\xef\xbb\xbf";
        size_t at = given.compare(0, 3, bom) == 0 ? 3 : 0;
        while (at < given.size() && why.empty()) {
            const char c = given[at], before = at ? given[at - 1] : '\0';
            if (c == '"' || c == '\'')
                take(given, &at, end_of_text(given, at));
            else if (c == '#')
                take(given, &at, given.find('\n', at));
            else if (is_digit(c) && !is_word(before))
                take_number(given, &at);
            else
                take(given, &at, at + 1);
        }
    }

    // Where a column of `text` was in what was given.
    int given_column(int line, int column) const
    {
        int moved = 0;
        for (const Longer &l : longer)
            if (l.line == line && l.column < column) moved += l.more;
        return column - moved;
    }

  private:
    int line = 0;
    size_t line_begins = 0; // in text

    void take(const std::string &given, size_t *at, size_t end)
    {
        for (end = end < given.size() ? end : given.size(); *at < end; ++*at) {
            text += given[*at];
            if (given[*at] == '\n') line++, line_begins = text.size();
        }
    }
    void take_number(const std::string &given, size_t *at)
    {
        size_t end = *at;
        while (end < given.size() && is_digit(given[end])) end++;
        bool is_suffixed = end < given.size() && number_suffix(given[end]) &&
                           (end + 1 == given.size() || !is_word(given[end + 1]));
        if (!is_suffixed) {
            while (end < given.size() && is_word(given[end])) end++; // 0x1f, 1e9, 2.5f
            take(given, at, end);
            return;
        }
        int64_t value;
        const std::string word = given.substr(*at, end + 1 - *at);
        const int column = (int)(text.size() - line_begins);
        if (!number_read(word.c_str(), 0, UINT64_MAX, &value)) {
            why = std::to_string(line + 1) + ":" +
                  std::to_string(given_column(line, column) + 1) + ": \"" + word +
                  "\" is beyond 64 bits";
            return;
        }
        const std::string digits = std::to_string((uint64_t)value);
        longer.push_back({line, column, (int)(digits.size() - word.size())});
        text += digits;
        *at = end + 1;
    }
};

class FirstError : public google::protobuf::io::ErrorCollector
{
  public:
    explicit FirstError(const Plain *plain) : plain(plain)
    {
    }
    std::string text;
    void AddError(int line, int column, const std::string &message) override
    {
        if (text.empty()) // protobuf counts from 0, editors from 1
            text = std::to_string(line + 1) + ":" +
                   std::to_string(plain->given_column(line, column) + 1) + ": " +
                   in_our_words(message);
    }

  private:
    const Plain *plain;
};

} // namespace

bool textformat_parse(const char *text, size_t text_bytes, unsigned char **out,
                      size_t *out_bytes, char *why, size_t why_bytes)
{
#if GOOGLE_PROTOBUF_VERSION < 4022000 // it has words of its own for stderr
    google::protobuf::SetLogHandler(nullptr);
#endif
    banyan::Config config;
    const Plain plain(std::string(text, text_bytes));
    FirstError error(&plain);
    if (!plain.why.empty()) {
        snprintf(why, why_bytes, "%s", plain.why.c_str());
        return false;
    }
    google::protobuf::TextFormat::Parser parser;
    parser.RecordErrorsTo(&error);
    if (!parser.ParseFromString(plain.text, &config)) {
        snprintf(why, why_bytes, "%s",
                 error.text.empty() ? "cannot be parsed" : error.text.c_str());
        return false;
    }
    std::string wire = config.SerializeAsString();
    *out_bytes = wire.size();
    *out = static_cast<unsigned char *>(malloc(wire.size() + 1));
    if (!*out) {
        snprintf(why, why_bytes, "out of memory");
        return false;
    }
    wire.copy(reinterpret_cast<char *>(*out), wire.size());
    return true;
}
