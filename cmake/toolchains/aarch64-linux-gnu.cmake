# Debian's cross compiler for AArch64 Linux (g++-aarch64-linux-gnu): builds the runtime and its tests on another machine
# and runs them under qemu-user. Libraries and headers beyond the C++ library come from build/sysroot-arm64 alone, which
# tools/install_deps.sh fills (group test); a header of the build machine is never seen.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

get_filename_component(BITNET_ARM64_SYSROOT "${CMAKE_CURRENT_LIST_DIR}/../../build/sysroot-arm64" ABSOLUTE)
if(NOT EXISTS "${BITNET_ARM64_SYSROOT}/usr/include")
  message(FATAL_ERROR "no AArch64 libraries in ${BITNET_ARM64_SYSROOT}: run tools/install_deps.sh test")
endif()
set(CMAKE_FIND_ROOT_PATH "${BITNET_ARM64_SYSROOT}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# Debian's headers of one architecture only.
set(CMAKE_C_STANDARD_INCLUDE_DIRECTORIES "${BITNET_ARM64_SYSROOT}/usr/include/aarch64-linux-gnu")
set(CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES "${BITNET_ARM64_SYSROOT}/usr/include/aarch64-linux-gnu")
# libcrypto goes into the programs: the emulator then needs the C and C++ libraries of the cross compiler only.
set(OPENSSL_USE_STATIC_LIBS ON)

# Tests run through it. The named CPU of a test is another -cpu, see tests/arm.cmake.
find_program(BITNET_QEMU_AARCH64 qemu-aarch64)
if(BITNET_QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${BITNET_QEMU_AARCH64};-L;/usr/aarch64-linux-gnu")
endif()
