// SPDX-License-Identifier: Apache-2.0
// The one C++ file: protobuf's text format has no parser in C. Text goes in, the wire format of
// banyan.Config comes out, and protobuf-c takes it from there.
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

class FirstError : public google::protobuf::io::ErrorCollector
{
  public:
    std::string text;
    void AddError(int line, int column, const std::string &message) override
    {
        if (text.empty()) // protobuf counts from 0, editors from 1
            text = std::to_string(line + 1) + ":" + std::to_string(column + 1) + ": " +
                   in_our_words(message);
    }
};

} // namespace

bool textformat_parse(const char *text, size_t text_bytes, unsigned char **out,
                      size_t *out_bytes, char *why, size_t why_bytes)
{
#if GOOGLE_PROTOBUF_VERSION < 4022000 // it has words of its own for stderr
    google::protobuf::SetLogHandler(nullptr);
#endif
    banyan::Config config;
    FirstError error;
    google::protobuf::TextFormat::Parser parser;
    parser.RecordErrorsTo(&error);
    if (!parser.ParseFromString(std::string(text, text_bytes), &config)) {
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
