# bitnet_embed_files(TARGET target PREFIX virtual/prefix ROOT dir FILES relative paths...)
#
# Puts files into a program as read-only bytes: `.incbin` in an assembler file, and a table row for each file. A file is
# found at run time under PREFIX/relative path (PREFIX may be empty). Collects over several calls;
# bitnet_embed_finish(target) writes the table, codegen/embedded.h is its face. No path of the build machine stays in the
# program: the assembler reads the bytes and forgets the name.
function(bitnet_embed_files)
  cmake_parse_arguments(arg "" "TARGET;PREFIX;ROOT" "FILES" ${ARGN})
  foreach(file IN LISTS arg_FILES)
    set(source "${arg_ROOT}/${file}")
    if(NOT EXISTS "${source}")
      message(FATAL_ERROR "bitnet_embed_files: no file ${source}")
    endif()
    set(path "${file}")
    if(arg_PREFIX)
      set(path "${arg_PREFIX}/${file}")
    endif()
    set_property(TARGET ${arg_TARGET} APPEND PROPERTY BITNET_EMBEDDED "${path}|${source}")
  endforeach()
endfunction()

function(bitnet_embed_finish target)
  get_target_property(entries ${target} BITNET_EMBEDDED)
  list(SORT entries)
  set(assembly "  .section .rodata\n")
  set(declarations "")
  set(rows "")
  set(depends "")
  set(index 0)
  foreach(entry IN LISTS entries)
    string(REPLACE "|" ";" parts "${entry}")
    list(GET parts 0 path)
    list(GET parts 1 source)
    set(symbol "bitnet_embedded_${index}")
    string(APPEND assembly "  .globl ${symbol}\n  .hidden ${symbol}\n${symbol}:\n  .incbin \"${source}\"\n"
                           "  .globl ${symbol}_end\n  .hidden ${symbol}_end\n${symbol}_end:\n  .byte 0\n")
    string(APPEND declarations "extern const char ${symbol}[];\nextern const char ${symbol}_end[];\n")
    string(APPEND rows "      {\"${path}\", {${symbol}, static_cast<std::size_t>(${symbol}_end - ${symbol})}},\n")
    list(APPEND depends "${source}")
    math(EXPR index "${index} + 1")
  endforeach()
  string(APPEND assembly "  .section .note.GNU-stack,\"\",@progbits\n")
  set(table "// Written by cmake/BitnetEmbed.cmake from the list in codegen/CMakeLists.txt. DO NOT EDIT.
#include \"codegen/embedded.h\"

#include <cstddef>

extern \"C\" {
${declarations}}

namespace bitnet::codegen {

std::span<const EmbeddedFile> embedded_files() {
  static const EmbeddedFile files[] = {
${rows}  };
  return files;
}

}  // namespace bitnet::codegen
")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/embedded")
  file(CONFIGURE OUTPUT "${folder}/files.S" CONTENT "${assembly}" @ONLY)
  file(CONFIGURE OUTPUT "${folder}/table.cc" CONTENT "${table}" @ONLY)
  # A changed header must be embedded again.
  set_source_files_properties("${folder}/files.S" PROPERTIES OBJECT_DEPENDS "${depends}")
  target_sources(${target} PRIVATE "${folder}/files.S" "${folder}/table.cc")
endfunction()
