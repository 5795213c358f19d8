// The device sources as text: setup.py writes the definition from the files of this folder.
#pragma once

namespace mace_md::cuda {

struct EmbeddedFile {
  const char *name, *text;
};

extern const EmbeddedFile kEmbeddedFiles[];  // ends with a null name

}  // namespace mace_md::cuda
