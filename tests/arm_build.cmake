# cmake -DSOURCE=... -DBUILD=... -DLAUNCHER=... -P arm_build.cmake: the cross build of tests/arm.cmake.
set(targets bitnet isa_test bundle_kernel_test)
set(options -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" -DBITNET_CODEGEN=OFF -DBITNET_BENCH=OFF
    "-DCMAKE_TOOLCHAIN_FILE=${SOURCE}/cmake/toolchains/aarch64-linux-gnu.cmake")
if(LAUNCHER)
  list(APPEND options "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" "-DCMAKE_C_COMPILER_LAUNCHER=${LAUNCHER}")
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${BUILD}" -G Ninja ${options}
                OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "the cross build cannot be configured:\n${text}")
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${BUILD}" --target ${targets}
                OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "the cross build fails:\n${text}")
endif()
