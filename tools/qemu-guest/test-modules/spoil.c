// SPDX-License-Identifier: GPL-2.0
/*
 * Makes a guest's memory what a restored image of it may be. Writing a state, as the header numbers them, to the file
 * "spoil" in debugfs ends the registration of the descriptors behind pvirq_guest's back, and then writes to each
 * descriptor that state of the host's, windows that are long, an end of the idle call that says that there is work, and
 * some pending bits, at random: half of them would keep a guest busy with unhandled interrupts for a second. "idle" does so for what idle CPUs go by alone: no time to poll in the guest, some in the host. "end"
 * only ends the registration.
 *
 * All CPUs stand still meanwhile, as when a guest is restored: otherwise one could find the registration gone and register
 * the descriptors again before they are spoiled, and the host would inject what is pending there, vectors of the CPU's own
 * among it.
 *
 * address= and count= say where the descriptors are, as /sys/kernel/debug/pvirq_guest/host does.
 */
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/stop_machine.h>
#include <linux/uaccess.h>

#include "../../../include/uapi/linux/pvirq.h"

static unsigned long address;
module_param(address, ulong, 0);
static unsigned int count;
module_param(count, uint, 0);

static struct pvirq_descriptor *descriptors;

static void end_registration(void)
{
	outl(PVIRQ_COMMAND_UNREGISTER, PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND);
}

static int spoil_all(void *state)
{
	unsigned int i, word;

	end_registration();
	for (i = 0; i < count; i++) {
		struct pvirq_descriptor *descriptor = &descriptors[i];

		for (word = 0; word < ARRAY_SIZE(descriptor->pending); word++)
			atomic64_or(get_random_u64() & get_random_u64() & get_random_u64(),
				    (atomic64_t *)&descriptor->pending[word]);
		WRITE_ONCE(descriptor->guest_poll_ns, U32_MAX);
		WRITE_ONCE(descriptor->host_poll_ns, U32_MAX);
		WRITE_ONCE(descriptor->idle_end, PVIRQ_IDLE_EVENT);
		WRITE_ONCE(descriptor->host_state, *(u32 *)state);
	}
	return 0;
}

static ssize_t spoil(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	u32 state;
	int ret;

	ret = kstrtou32_from_user(buffer, size, 0, &state);
	if (ret)
		return ret;
	ret = stop_machine(spoil_all, &state, NULL);
	return ret ?: size;
}

static int spoil_idle(void *unused)
{
	unsigned int i;

	end_registration();
	for (i = 0; i < count; i++) {
		WRITE_ONCE(descriptors[i].guest_poll_ns, 0);
		WRITE_ONCE(descriptors[i].host_poll_ns, NSEC_PER_MSEC);
		WRITE_ONCE(descriptors[i].idle_end, PVIRQ_IDLE_EVENT);
	}
	return 0;
}

static ssize_t idle(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	int ret = stop_machine(spoil_idle, NULL, NULL);

	return ret ?: size;
}

static ssize_t end(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	end_registration();
	return size;
}

static const struct file_operations spoil_operations = {
	.owner = THIS_MODULE,
	.write = spoil,
};

static const struct file_operations idle_operations = {
	.owner = THIS_MODULE,
	.write = idle,
};

static const struct file_operations end_operations = {
	.owner = THIS_MODULE,
	.write = end,
};

static struct dentry *directory;

static int __init spoil_init(void)
{
	if (!address || !count)
		return -EINVAL;
	descriptors = phys_to_virt(address);
	directory = debugfs_create_dir("spoil", NULL);
	debugfs_create_file("spoil", 0200, directory, NULL, &spoil_operations);
	debugfs_create_file("idle", 0200, directory, NULL, &idle_operations);
	debugfs_create_file("end", 0200, directory, NULL, &end_operations);
	return 0;
}

static void __exit spoil_exit(void)
{
	debugfs_remove(directory);
}

module_init(spoil_init);
module_exit(spoil_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Spoils the descriptors of pvirq_guest");
