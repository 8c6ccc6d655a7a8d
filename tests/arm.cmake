# AArch64 on another machine: the runtime cross-built (preset aarch64), bundles made by the native bitnet-codegen, both
# together under qemu-aarch64 on CPUs that have exactly a target's instructions.

if(CMAKE_CROSSCOMPILING)
  add_executable(bundle_kernel_test bundle_kernel_test.cc $<TARGET_OBJECTS:bitnet_doctest_main>)
  target_link_libraries(bundle_kernel_test PRIVATE bitnet_options bitnet_runtime doctest::doctest bitnet_kernel_tester)
  return()
endif()

if(TARGET bitnet_codegen)
  bitnet_add_test(arm_instructions_test arm_instructions_test.cc LINK bitnet_codegen)
  add_executable(write_test_bundle write_test_bundle.cc)
  target_link_libraries(write_test_bundle PRIVATE bitnet_options bitnet_codegen)
endif()

find_program(BITNET_CROSS_CXX aarch64-linux-gnu-g++)
find_program(BITNET_QEMU_AARCH64 qemu-aarch64)
set(bitnet_arm_names arm_build arm_bundles arm_wrong_bundle arm_wrong_features)
foreach(cpu cortex-a53 neoverse-n1 max)
  list(APPEND bitnet_arm_names arm_isa_${cpu} arm_kernels_${cpu} arm_text_${cpu})
endforeach()
set(bitnet_arm_missing "")
if(NOT TARGET bitnet_codegen)
  set(bitnet_arm_missing "built without bitnet-codegen")
elseif(BITNET_SANITIZE)
  set(bitnet_arm_missing "AddressSanitizer does not run under qemu-user")
elseif(NOT BITNET_CROSS_CXX)
  set(bitnet_arm_missing "aarch64-linux-gnu-g++ is not installed")
elseif(NOT BITNET_QEMU_AARCH64)
  set(bitnet_arm_missing "qemu-aarch64 is not installed")
elseif(NOT EXISTS "${PROJECT_SOURCE_DIR}/build/sysroot-arm64/.installed")
  set(bitnet_arm_missing "no libraries for arm64, run tools/install_deps.sh test")
endif()
if(bitnet_arm_missing)
  foreach(name IN LISTS bitnet_arm_names)
    add_test(NAME ${name} COMMAND sh -c "echo 'SKIPPED: ${bitnet_arm_missing}'; exit 77")
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
  endforeach()
  return()
endif()

# The cross build: no more than the programs that run below. At -O1, since nothing here is timed; kernels keep their -O3.
set(bitnet_arm_dir "${CMAKE_CURRENT_BINARY_DIR}/aarch64")
set(bitnet_arm_run "${BITNET_QEMU_AARCH64}" -L /usr/aarch64-linux-gnu)
add_test(NAME arm_build COMMAND "${CMAKE_COMMAND}"
  -DSOURCE=${PROJECT_SOURCE_DIR} -DBUILD=${bitnet_arm_dir} -DLAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}
  -P "${CMAKE_CURRENT_SOURCE_DIR}/arm_build.cmake")
set_tests_properties(arm_build PROPERTIES FIXTURES_SETUP bitnet_arm_programs PROCESSORS 2)

# Bundles, made where no tool for AArch64 can be found.
set(bitnet_arm_bundles "${CMAKE_CURRENT_BINARY_DIR}/arm_bundles")
add_test(NAME arm_bundles COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/arm_bundles.sh" "$<TARGET_FILE_DIR:bitnet-codegen>"
  "$<TARGET_FILE:write_test_bundle>" "${PROJECT_SOURCE_DIR}/models/default.gguf" "${bitnet_arm_bundles}")
set_tests_properties(arm_bundles PROPERTIES FIXTURES_SETUP bitnet_arm_bundles)

# bitnet_add_arm_tests(CPU bundle targets): `targets` is what the probe must find on it, `bundle` what greedy text is
# generated with.
function(bitnet_add_arm_tests cpu bundle targets)
  set(environment "BITNET_TEST_QUICK=1;BITNET_TEST_EMULATOR=qemu-aarch64 -cpu ${cpu};BITNET_TEST_EXPECT_ISAS=${targets}")
  add_test(NAME arm_isa_${cpu} COMMAND ${bitnet_arm_run} -cpu ${cpu} "${bitnet_arm_dir}/bin/isa_test")
  set_tests_properties(arm_isa_${cpu} PROPERTIES ENVIRONMENT "${environment}" FIXTURES_REQUIRED bitnet_arm_programs)
  # Bundles one after the other: without K-groups, with groups of 64.
  add_test(NAME arm_kernels_${cpu} COMMAND sh -c "for bundle in every group64; do
    BITNET_TEST_BUNDLE='${bitnet_arm_bundles}'/$bundle.bnk '${BITNET_QEMU_AARCH64}' -L /usr/aarch64-linux-gnu -cpu ${cpu} \
      '${bitnet_arm_dir}/bin/bundle_kernel_test' || exit 1; done")
  set_tests_properties(arm_kernels_${cpu} PROPERTIES ENVIRONMENT "${environment}"
                       FIXTURES_REQUIRED "bitnet_arm_programs;bitnet_arm_bundles")
  add_test(NAME arm_text_${cpu} COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/arm_text.sh" "$<TARGET_FILE:bitnet>"
    "${bitnet_arm_dir}/bin/bitnet" "${PROJECT_SOURCE_DIR}/models/default.gguf" "${bitnet_arm_bundles}/${bundle}.bnk"
    "${targets}" ${bitnet_arm_run} -cpu ${cpu})
  set_tests_properties(arm_text_${cpu} PROPERTIES FIXTURES_REQUIRED "bitnet_arm_programs;bitnet_arm_bundles")
endfunction()
bitnet_add_arm_tests(cortex-a53 neon-dotprod "scalar neon")
bitnet_add_arm_tests(neoverse-n1 neon-dotprod "scalar neon neon-dotprod")
bitnet_add_arm_tests(max neon-i8mm "scalar neon neon-dotprod neon-i8mm")

# A kernel that uses more than its target faults: the image neon with dot products, on a CPU without them. Where the CPU
# has them the same bundle is right, so that it is the instruction that is caught and not the kernel.
add_test(NAME arm_wrong_bundle COMMAND write_test_bundle "${CMAKE_CURRENT_BINARY_DIR}/arm_wrong.bnk" neon 0
         +neon,+dotprod neon_dotprod)
set_tests_properties(arm_wrong_bundle PROPERTIES FIXTURES_SETUP bitnet_arm_wrong_bundle)
add_test(NAME arm_wrong_features COMMAND sh -c "'${BITNET_QEMU_AARCH64}' -L /usr/aarch64-linux-gnu -cpu neoverse-n1 \
    '${bitnet_arm_dir}/bin/bundle_kernel_test' && echo 'right with dot products' && '${BITNET_QEMU_AARCH64}' \
    -L /usr/aarch64-linux-gnu -cpu cortex-a53 '${bitnet_arm_dir}/bin/bundle_kernel_test'")
set_tests_properties(arm_wrong_features PROPERTIES
  ENVIRONMENT "BITNET_TEST_QUICK=1;BITNET_TEST_BUNDLE=${CMAKE_CURRENT_BINARY_DIR}/arm_wrong.bnk;BITNET_TEST_EMULATOR=qemu-aarch64"
  FIXTURES_REQUIRED "bitnet_arm_programs;bitnet_arm_wrong_bundle"
  PASS_REGULAR_EXPRESSION "right with dot products.*(Illegal instruction|SIGILL)")
