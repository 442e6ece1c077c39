// SPDX-License-Identifier: GPL-2.0
/*
 * How long a multicast waits for CPUs that handle softirqs: busy_us= in every period_us= on average, at random times, in a
 * timer of each CPU but the one that loads the module. Writing a number to the file "multicasts" in debugfs under softirq_load calls a function on all
 * other CPUs so many times, at random times; reading it gives the number, and the mean and the longest wait in ns.
 */
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

static unsigned int busy_us = 100;
module_param(busy_us, uint, 0);
static unsigned int period_us = 1000;
module_param(period_us, uint, 0);

static DEFINE_PER_CPU(struct hrtimer, timers);
static u64 count, sum, longest;

static enum hrtimer_restart expired(struct hrtimer *timer)
{
	udelay(busy_us);
	/* The periods of the CPUs are not to fall into step with each other, nor with the multicasts. */
	hrtimer_forward_now(timer, us_to_ktime(busy_us + get_random_u32_below(2 * (period_us - busy_us))));
	return HRTIMER_RESTART;
}

static void start(void *unused)
{
	hrtimer_start(this_cpu_ptr(&timers), us_to_ktime(period_us), HRTIMER_MODE_REL_PINNED_SOFT);
}

static void nothing(void *unused)
{
}

static ssize_t multicasts_write(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	unsigned long times;
	u64 begin, wait;
	int ret;

	ret = kstrtoul_from_user(buffer, size, 0, &times);
	if (ret)
		return ret;
	count = sum = longest = 0;
	while (times--) {
		if (fatal_signal_pending(current))
			return -EINTR;
		fsleep(period_us + get_random_u32_below(period_us));
		preempt_disable();
		begin = ktime_get_ns();
		smp_call_function(nothing, NULL, true);
		wait = ktime_get_ns() - begin;
		preempt_enable();
		count++;
		sum += wait;
		longest = max(longest, wait);
	}
	return size;
}

static ssize_t multicasts_read(struct file *file, char __user *buffer, size_t size, loff_t *position)
{
	char text[80];
	int length = scnprintf(text, sizeof(text), "%llu %llu %llu\n", count, count ? sum / count : 0, longest);

	return simple_read_from_buffer(buffer, size, position, text, length);
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.read = multicasts_read,
	.write = multicasts_write,
};

static struct dentry *directory;

static int __init softirq_load_init(void)
{
	unsigned int cpu;

	if (busy_us >= period_us)
		return -EINVAL;
	for_each_possible_cpu(cpu)
		hrtimer_setup(per_cpu_ptr(&timers, cpu), expired, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_SOFT);
	if (busy_us)
		smp_call_function(start, NULL, true);
	directory = debugfs_create_dir("softirq_load", NULL);
	debugfs_create_file("multicasts", 0600, directory, NULL, &operations);
	return 0;
}

static void __exit softirq_load_exit(void)
{
	unsigned int cpu;

	debugfs_remove(directory);
	for_each_possible_cpu(cpu)
		hrtimer_cancel(per_cpu_ptr(&timers, cpu));
}

module_init(softirq_load_init);
module_exit(softirq_load_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Measures multicasts to CPUs that handle softirqs");
