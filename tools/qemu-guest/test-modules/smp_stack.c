// SPDX-License-Identifier: GPL-2.0
/*
 * Takes over, after pvirq_guest, how CPUs interrupt each other, and passes all of it on: as another module would that
 * counts or traces interrupts.
 */
#include <linux/cpu.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>

static struct smp_ops before;

static void reschedule(int cpu)
{
	/* There is a macro of this name. */
	(before.smp_send_reschedule)(cpu);
}

static void call_function(const struct cpumask *mask)
{
	before.send_call_func_ipi(mask);
}

static void call_function_single(int cpu)
{
	before.send_call_func_single_ipi(cpu);
}

static int __init smp_stack_init(void)
{
	before = smp_ops;
	WRITE_ONCE(smp_ops.smp_send_reschedule, reschedule);
	WRITE_ONCE(smp_ops.send_call_func_ipi, call_function);
	WRITE_ONCE(smp_ops.send_call_func_single_ipi, call_function_single);
	return 0;
}

static void __exit smp_stack_exit(void)
{
	/* As rust/kernel-ext/cpu/ipi.rs has it. */
	cpus_read_lock();
	WRITE_ONCE(smp_ops.smp_send_reschedule, before.smp_send_reschedule);
	WRITE_ONCE(smp_ops.send_call_func_ipi, before.send_call_func_ipi);
	WRITE_ONCE(smp_ops.send_call_func_single_ipi, before.send_call_func_single_ipi);
	cpus_read_unlock();
	synchronize_rcu();
}

module_init(smp_stack_init);
module_exit(smp_stack_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Takes interprocessor interrupts over and passes them on");
