# Finds the Halide C++ SDK inside the PyPI wheel `halide` and defines the imported target Halide::Wheel.
#
# The wheel's own CMake package wants CMake 3.28; this project builds with Debian 12's 3.25, and needs no more than the
# header and the shared library. Set BITNET_HALIDE_DIR to the folder that holds include/ and lib64/ (or lib/) to use another
# copy; by default the python of the project's virtual environment, `.venv`, is asked where its `halide` lies.
# Result: HalideWheel_FOUND, HalideWheel_VERSION, HALIDE_WHEEL_INCLUDE_DIR (Halide.h, HalideRuntime.h).
set(BITNET_HALIDE_DIR "" CACHE PATH "Halide SDK: folder with include/Halide.h and lib64/libHalide.so; empty: the one in .venv")

set(halide_wheel_dir "${BITNET_HALIDE_DIR}")
set(halide_wheel_why "")
if(NOT halide_wheel_dir)
  set(halide_wheel_python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  if(EXISTS "${halide_wheel_python}")
    # find_spec does not import the module: that would load 165 MB and numpy.
    execute_process(
      COMMAND "${halide_wheel_python}" -c
              "import importlib.util, os; print(os.path.dirname(importlib.util.find_spec('halide').origin))"
      OUTPUT_VARIABLE halide_wheel_dir OUTPUT_STRIP_TRAILING_WHITESPACE
      ERROR_VARIABLE halide_wheel_error ERROR_STRIP_TRAILING_WHITESPACE
      RESULT_VARIABLE halide_wheel_status)
    if(NOT halide_wheel_status EQUAL 0)
      set(halide_wheel_dir "")
      set(halide_wheel_why "the virtual environment .venv has no package 'halide'")
    endif()
  else()
    set(halide_wheel_why "there is no virtual environment .venv in ${PROJECT_SOURCE_DIR}")
  endif()
endif()

if(halide_wheel_dir)
  find_path(HALIDE_WHEEL_INCLUDE_DIR Halide.h PATHS "${halide_wheel_dir}/include" NO_DEFAULT_PATH NO_CACHE)
  find_library(HALIDE_WHEEL_LIBRARY Halide PATHS "${halide_wheel_dir}/lib64" "${halide_wheel_dir}/lib" NO_DEFAULT_PATH
               NO_CACHE)
  if(NOT HALIDE_WHEEL_INCLUDE_DIR OR NOT HALIDE_WHEEL_LIBRARY)
    set(halide_wheel_why "${halide_wheel_dir} has no include/Halide.h or no lib64/libHalide.so")
  else()
    file(STRINGS "${HALIDE_WHEEL_INCLUDE_DIR}/HalideRuntime.h" halide_wheel_lines
         REGEX "^#define HALIDE_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    string(REGEX REPLACE "[^0-9;]" "" halide_wheel_lines "${halide_wheel_lines}")
    list(JOIN halide_wheel_lines "." HalideWheel_VERSION)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(HalideWheel
  REQUIRED_VARS HALIDE_WHEEL_LIBRARY HALIDE_WHEEL_INCLUDE_DIR
  VERSION_VAR HalideWheel_VERSION
  REASON_FAILURE_MESSAGE "${halide_wheel_why}. Run tools/install_deps.sh, or set BITNET_HALIDE_DIR to a Halide SDK")

if(HalideWheel_FOUND AND NOT TARGET Halide::Wheel)
  add_library(Halide::Wheel SHARED IMPORTED)
  # The folder of an imported library becomes part of the build RPATH: programs run in place.
  set_target_properties(Halide::Wheel PROPERTIES
    IMPORTED_LOCATION "${HALIDE_WHEEL_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${HALIDE_WHEEL_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS "HALIDE_ENABLE_RTTI;HALIDE_WITH_EXCEPTIONS")
endif()
