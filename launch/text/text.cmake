# Text to token ids and back, a part of banyan_launch.
target_sources(banyan_launch PRIVATE
  launch/text/added.c launch/text/bpe.c launch/text/chat.c launch/text/classes.c launch/text/decode.c
  launch/text/encode.c launch/text/nfc.c launch/text/read.c launch/text/scan.c launch/text/steps.c
  launch/text/tokenizer.c launch/text/vocab.c)
