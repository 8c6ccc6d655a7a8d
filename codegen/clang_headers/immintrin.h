// Stands before clang's own <immintrin.h> in the include path of generated kernels: the same intrinsics, but only of
// the instruction sets that a target in runtime/kernels/targets.def has. Clang's header parses those of every x86
// extension, which takes several times longer than compiling the kernels. clang's headers want to be included through a
// file that defines this guard.
#ifndef __IMMINTRIN_H
#define __IMMINTRIN_H

#include <emmintrin.h>
#ifdef __AVX2__
#include <smmintrin.h>
//
#include <avxintrin.h>
//
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#endif
#ifdef __AVX512F__
#include <avx512fintrin.h>
//
#include <avx512vlintrin.h>
//
#include <avx512bwintrin.h>
#include <avx512dqintrin.h>
#include <avx512vlbwintrin.h>
#include <avx512vldqintrin.h>
#include <avx512vlvnniintrin.h>
#include <avx512vnniintrin.h>
#endif
#ifdef __AVX512VBMI__
#include <avx512vbmiintrin.h>
#endif

#endif  // __IMMINTRIN_H
