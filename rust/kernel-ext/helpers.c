// SPDX-License-Identifier: GPL-2.0
/* Inline functions that kernel::bindings lacks, wrapped for Rust as in rust/helpers. */
#include <linux/interrupt.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

bool rust_helper_fatal_signal_pending(void);
bool rust_helper_in_interrupt(void);
bool rust_helper_in_ksoftirqd(void);
void rust_helper_tasklet_schedule(struct tasklet_struct *tasklet);

bool rust_helper_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool rust_helper_in_interrupt(void)
{
	return in_interrupt();
}

/* By name: the per-CPU variable ksoftirqd is not exported to modules. */
bool rust_helper_in_ksoftirqd(void)
{
	return current->flags & PF_KTHREAD && str_has_prefix(current->comm, "ksoftirqd/");
}

void rust_helper_tasklet_schedule(struct tasklet_struct *tasklet)
{
	tasklet_schedule(tasklet);
}
