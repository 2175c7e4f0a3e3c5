// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Wires the kernel's interrupt counter to line 4 of the simulated meter, as a board's device tree
 * does: the guest has none. The kernel lends what this needs to modules under its licence only.
 */

#include <linux/gpio/machine.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static struct gpiod_lookup_table wire = {
	.dev_id = "interrupt-cnt",
	.table = {
		GPIO_LOOKUP("meter", 4, NULL, GPIO_ACTIVE_HIGH),
		{}
	},
};

static struct platform_device *counter;

static int __init wired_init(void)
{
	gpiod_add_lookup_table(&wire);
	counter = platform_device_register_simple("interrupt-cnt", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(counter))
		gpiod_remove_lookup_table(&wire);
	return PTR_ERR_OR_ZERO(counter);
}

static void __exit wired_exit(void)
{
	platform_device_unregister(counter);
	gpiod_remove_lookup_table(&wire);
}

module_init(wired_init);
module_exit(wired_exit);
MODULE_DESCRIPTION("An interrupt counter on a simulated GPIO line");
MODULE_LICENSE("GPL");
