# Compile options shared by every target of the project, as one interface library.
add_library(bitnet_options INTERFACE)
target_compile_features(bitnet_options INTERFACE cxx_std_20)
# -ffp-contract=off: the float order is part of the contract (runtime/kernels/kernel_abi.h).
target_compile_options(bitnet_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Werror -ffp-contract=off)
# GCC 12 reports a false -Wrestrict for "literal" + std::string&& (GCC bug 105651).
target_compile_options(
  bitnet_options INTERFACE "$<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict;-Wno-stringop-overflow>")
# libstdc++ 12's stable_sort calls a function that C++17 deprecated, and clang says so where we instantiate it.
target_compile_options(bitnet_options INTERFACE "$<$<CXX_COMPILER_ID:Clang>:-Wno-deprecated-declarations>")
target_include_directories(bitnet_options INTERFACE "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
if(BITNET_SANITIZE)
  target_compile_options(bitnet_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
                                                  -fno-omit-frame-pointer)
  # clang's check of a called function's type reads the words before it; a kernel of a bundle may begin its mapping.
  target_compile_options(bitnet_options INTERFACE "$<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=function>")
  target_link_options(bitnet_options INTERFACE -fsanitize=address,undefined)
endif()
