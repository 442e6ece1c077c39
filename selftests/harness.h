/* SPDX-License-Identifier: GPL-2.0 */
/* kselftest's harness, with time limits for an emulated CPU on a busy machine. */
#ifndef _PVIRQ_SELFTESTS_HARNESS_H
#define _PVIRQ_SELFTESTS_HARNESS_H

#include "kselftest_harness.h"

/* Seconds. Tests take a few of them at most; this is what tells a hang. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

#endif
