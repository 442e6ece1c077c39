// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs a Linux kernel to interrupt CPUs: files in debugfs under ipi_bench, one for each way. Writing a number
 * to one of them sends so many interrupts, each when the one before has been handled, and fails if one was not.
 *
 *   self       irq_work on the same CPU
 *   single     smp_call_function_single() to another CPU, each time a random one
 *   broadcast  smp_call_function() to all others
 */
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/irq_work.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

/* Writers of a file, of which there may be several at a time. */
struct sender {
	atomic64_t handled;
	struct irq_work work;
};

static void handle(void *sender)
{
	atomic64_inc(&((struct sender *)sender)->handled);
}

static void handle_work(struct irq_work *work)
{
	handle(container_of(work, struct sender, work));
}

/* Each sends one interrupt, waits until it is handled, and says how many CPUs were to. */

static unsigned int send_self(struct sender *sender)
{
	irq_work_queue(&sender->work);
	irq_work_sync(&sender->work);
	return 1;
}

static unsigned int send_single(struct sender *sender)
{
	unsigned int skip, cpu, this_cpu, sent = 0;

	cpus_read_lock();
	preempt_disable();
	this_cpu = smp_processor_id();
	if (num_online_cpus() > 1) {
		skip = get_random_u32_below(num_online_cpus() - 1);
		for_each_online_cpu(cpu) {
			if (cpu == this_cpu)
				continue;
			if (!skip--)
				break;
		}
		if (!smp_call_function_single(cpu, handle, sender, true))
			sent = 1;
	}
	preempt_enable();
	cpus_read_unlock();
	return sent;
}

static unsigned int send_broadcast(struct sender *sender)
{
	unsigned int sent;

	cpus_read_lock();
	sent = num_online_cpus() - 1;
	smp_call_function(handle, sender, true);
	cpus_read_unlock();
	return sent;
}

static ssize_t run(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	unsigned int (*send)(struct sender *sender) = file->private_data;
	struct sender sender = { .work = IRQ_WORK_INIT_HARD(handle_work) };
	unsigned long count;
	s64 expected = 0;
	int ret;

	ret = kstrtoul_from_user(buffer, size, 0, &count);
	if (ret)
		return ret;
	while (count--) {
		if (fatal_signal_pending(current))
			return -EINTR;
		expected += send(&sender);
		cond_resched();
	}
	if (atomic64_read(&sender.handled) != expected) {
		pr_err("%lld of %lld interrupts were handled\n", atomic64_read(&sender.handled), expected);
		return -EIO;
	}
	return size;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = run,
};

static struct dentry *directory;

static int __init ipi_bench_init(void)
{
	directory = debugfs_create_dir("ipi_bench", NULL);
	debugfs_create_file("self", 0200, directory, send_self, &operations);
	debugfs_create_file("single", 0200, directory, send_single, &operations);
	debugfs_create_file("broadcast", 0200, directory, send_broadcast, &operations);
	return 0;
}

static void __exit ipi_bench_exit(void)
{
	debugfs_remove(directory);
}

module_init(ipi_bench_init);
module_exit(ipi_bench_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Measures interprocessor interrupts");
